//! Which store, and under which key.

use std::env;
use std::path::PathBuf;

use backupy_state::{AgentKey, Error, Snapshot};

use crate::failure::Failure;

/// Where the state and the key are.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// The state file [default: $BACKUPY_STATE_DIR/state.db, else /var/lib/backupy/state.db]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) state: Option<PathBuf>,

    /// The file with the agent key [default: the key itself is in $BACKUPY_AGENT_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

impl Place {
    pub(crate) fn state(&self) -> PathBuf {
        if let Some(path) = &self.state {
            return path.clone();
        }
        let folder = env::var_os(STATE_DIR_VAR).filter(|folder| !folder.is_empty());
        folder.map_or_else(|| DEFAULT_DIR.into(), PathBuf::from).join("state.db")
    }

    pub(crate) fn key(&self) -> Result<AgentKey, Failure> {
        let key = match &self.key_file {
            Some(path) => AgentKey::from_file(path),
            None if env::var_os(KEY_VAR).is_some() => AgentKey::from_env(KEY_VAR),
            None => {
                let message = format!("there is no agent key; give --key-file or set {KEY_VAR}");
                return Err(Failure::usage(message));
            }
        };
        key.map_err(|error| match error {
            // Not through `Failure::from`: a missing key file is no missing store.
            Error::Io { .. } | Error::TooLarge { .. } => Failure::failed(error.to_string()),
            error => Failure::usage(error.to_string()),
        })
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, Failure> {
        let key = self.key()?;
        Ok(Snapshot::open(self.state(), &key)?)
    }
}

const STATE_DIR_VAR: &str = "BACKUPY_STATE_DIR";
const KEY_VAR: &str = "BACKUPY_AGENT_KEY";
const DEFAULT_DIR: &str = "/var/lib/backupy";
