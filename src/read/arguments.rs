//! What calls check of their arguments before they do anything.

use crate::format::bucket::{DATA_KEY_LEN_MAX, RUN_ID_LEN_MAX};
use crate::format::record::VALUE_LEN_MAX;
use crate::{Error, Result};

/// What is wrong with an argument. Unlike an [`Error`], it can be copied: a batch returns it at each write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Misuse {
    Empty { what: &'static str },
    TooLarge { what: &'static str, len: usize, max: usize },
}

impl Misuse {
    pub(crate) fn of_run_id(run_id: &str) -> Option<Self> {
        let empty = run_id.is_empty().then_some(Misuse::Empty { what: "the run id is empty" });
        empty.or(too_large("a run id", run_id.len(), RUN_ID_LEN_MAX))
    }

    pub(crate) fn of_data_key(key: &str) -> Option<Self> {
        let empty = key.is_empty().then_some(Misuse::Empty { what: "the data key is empty" });
        empty.or(too_large("a data key", key.len(), DATA_KEY_LEN_MAX))
    }

    pub(crate) fn of_value(what: &'static str, value: &[u8]) -> Option<Self> {
        too_large(what, value.len(), VALUE_LEN_MAX)
    }

    fn error(self) -> Error {
        match self {
            Misuse::Empty { what } => Error::Invalid { what: what.to_owned() },
            Misuse::TooLarge { what, len, max } => Error::TooLarge { what, len: len as u64, max: max as u64 },
        }
    }
}

fn too_large(what: &'static str, len: usize, max: usize) -> Option<Misuse> {
    (len > max).then_some(Misuse::TooLarge { what, len, max })
}

pub(crate) fn check_run_id(run_id: &str) -> Result<()> {
    refuse(Misuse::of_run_id(run_id))
}

pub(crate) fn check_data_key(key: &str) -> Result<()> {
    refuse(Misuse::of_data_key(key))
}

pub(crate) fn check_value(what: &'static str, value: &[u8]) -> Result<()> {
    refuse(Misuse::of_value(what, value))
}

pub(crate) fn refuse(misuse: Option<Misuse>) -> Result<()> {
    misuse.map_or(Ok(()), |misuse| Err(misuse.error()))
}
