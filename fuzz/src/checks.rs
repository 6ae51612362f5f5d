//! Reads the bytes of a log in every possible way and compares the results with each other and with FORMAT.md.

use std::path::Path;
use std::sync::Arc;

use backupy_state::testing::{Storage, open_snapshot_on, salvage_on, verify_on};
use backupy_state::{Error, FaultKind};

use crate::agree;
use crate::base::KEY;
use crate::page_reader;
use crate::sim::Sim;
use crate::sim::content::Content;
use crate::sim::world::Image;
use crate::sim::{Mode, Model, PATH, key, open};

/// Opens `file` as a store. Returns the store's contents if it opened and every value could be decrypted.
pub fn check_log(file: &[u8]) -> Option<Model> {
    agree::agree(file, KEY, "fuzz");
    if let Ok(log) = page_reader::read(file, KEY)
        && log.contents.jobs().iter().all(|(_, payload)| payload.is_some())
    {
        agree::agree_on_orders(file, KEY, "fuzz");
    }
    let readers = check_readers(file);
    let image = Image::from([(Path::new(PATH).to_owned(), Content::of(file))]);
    let sim = Sim::on(&image, 1);
    match open(&sim, Mode::Sync) {
        Err(error) => {
            // The readers ignore such flags. The key does not fit then, or the file is cut, which they see first.
            let readers_differ = refuses_only_writers(&error) && readers != Verdict::Unsupported;
            if readers_differ {
                assert!(matches!(readers, Verdict::WrongKey | Verdict::Damaged(0)), "{readers:?}");
            } else {
                assert_eq!(verdict(&error), readers, "the store and the readers without a lock differ");
            }
            assert!(is_same(&sim.live(), &image), "a refused open changed a file");
            None
        }
        Ok(store) => {
            assert_eq!(readers, Verdict::Opens);
            drop(store);
            check_reopen(&sim)
        }
    }
}

/// Once opened and closed, a store is clean and its contents stay the same.
fn check_reopen(sim: &Sim) -> Option<Model> {
    let again = open(sim, Mode::Sync).expect("a store that was opened and closed did not open again");
    assert!(again.recovery().clean);
    drop(again);
    let report = verify_on(sim, PATH, Some(&key()), |_| {}).unwrap();
    // Values that cannot be decrypted. The comparison with FORMAT.md has checked which.
    let is_forged = report.faults.iter().any(|fault| fault.kind == FaultKind::Tampering);
    if is_forged {
        return None;
    }
    match Model::take(&open(sim, Mode::Sync).unwrap()) {
        Ok(found) => Some(found),
        // Sealed under the right key, but not in its bucket's encoding.
        Err(Error::Unauthentic { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Opens,
    Foreign,
    WrongKey,
    Unsupported,
    Damaged(u64),
    Tampered(u64),
    Stale,
}

pub fn verdict(error: &Error) -> Verdict {
    match error {
        Error::NotAStore { .. } => Verdict::Foreign,
        Error::WrongKey { .. } => Verdict::WrongKey,
        Error::UnsupportedFormat { .. } => Verdict::Unsupported,
        Error::Corrupt { offset, .. } => Verdict::Damaged(*offset),
        Error::Unauthentic { offset, .. } => Verdict::Tampered(*offset),
        Error::Stale { .. } => Verdict::Stale,
        error => panic!("{error}"),
    }
}

/// Whether the store refused flags 16 to 31 alone.
fn refuses_only_writers(error: &Error) -> bool {
    let Error::UnsupportedFormat { version: 2, flags, .. } = error else { return false };
    flags >> 16 != 0 && flags & 0xfffe == 0
}

/// Returns the verdict of a snapshot; `verify` must agree.
fn check_readers(file: &[u8]) -> Verdict {
    let image = Image::from([(Path::new(PATH).to_owned(), Content::of(file))]);
    let sim = Sim::on(&image, 1);
    let opened = open_snapshot_on(Arc::new(sim.clone()), PATH, &key());
    let snapshot = opened.map_or_else(|error| verdict(&error), |_| Verdict::Opens);
    let mut end = 8192;
    let verified = verify_on(&sim, PATH, Some(&key()), |frame| {
        assert!(frame.offset >= end, "frames overlap");
        end = frame.offset + frame.len;
    });
    match verified {
        Err(error) => assert_eq!(verdict(&error), snapshot),
        Ok(report) => {
            let fault = report.faults.iter().rfind(|fault| match snapshot {
                Verdict::Damaged(offset) => fault.kind == FaultKind::Damage && fault.offset == offset,
                Verdict::Tampered(offset) => fault.kind == FaultKind::Tampering && fault.offset == offset,
                _ => false,
            });
            let is_refused = snapshot != Verdict::Opens;
            assert_eq!(fault.is_some(), is_refused, "{snapshot:?}, but {report:?}");
        }
    }
    // Without the key it cannot check seals, but any damage that it reports is damage. Only of two base records
    // that differ, it cannot know which is forged.
    if let Ok(report) = verify_on(&sim, PATH, None, |_| {}) {
        let first = report.faults.iter().find(|fault| fault.kind != FaultKind::Header);
        let has_forged_base =
            report.faults.iter().any(|fault| fault.what == "the copies of the base record differ");
        let damage = first.filter(|fault| fault.kind == FaultKind::Damage && !has_forged_base);
        if let (Some(damage), false) = (damage, matches!(snapshot, Verdict::Tampered(_) | Verdict::WrongKey)) {
            assert_eq!(Verdict::Damaged(damage.offset), snapshot);
        }
    }
    assert!(is_same(&sim.live(), &image), "a reader changed a file");
    snapshot
}

/// Salvages `file` and checks the new store. Salvage fails only for a bad header, never for damaged frames.
/// Returns the salvaged contents.
pub fn check_salvage(file: &[u8]) -> Option<Model> {
    let image = Image::from([(Path::new(PATH).to_owned(), Content::of(file))]);
    let sim = Sim::on(&image, 2);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let salvaged = salvage_on(&storage, PATH, &key(), TO);
    let mut files = sim.live();
    let new = files.remove(Path::new(TO));
    assert!(is_same(&files, &image), "salvage changed its source");
    let report = match salvaged {
        Ok(report) => report,
        Err(error) => {
            let refused = verdict(&error);
            let is_header = matches!(
                refused,
                Verdict::Foreign | Verdict::WrongKey | Verdict::Unsupported | Verdict::Damaged(0)
            );
            assert!(is_header, "{refused:?}");
            return None;
        }
    };
    let new = Sim::on(&Image::from([(Path::new(PATH).to_owned(), new.unwrap())]), 3);
    let verified = verify_on(&new, PATH, Some(&key()), |_| {}).unwrap();
    assert!(verified.is_intact(), "{verified:?}");
    let model = Model::take(&open(&new, Mode::Sync).unwrap()).unwrap();
    assert_eq!((report.jobs, report.log_events), (model.jobs.len() as u64, model.logs.len() as u64));
    let intact = verify_on(&sim, PATH, Some(&key()), |_| {}).unwrap().is_intact();
    if intact {
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(Model::on_copy(&sim.world()).unwrap(), model, "salvage of an intact store lost something");
    }
    Some(model)
}

const TO: &str = "/sim/salvaged.db";

pub fn is_same(a: &Image, b: &Image) -> bool {
    let bytes = |image: &Image| image.iter().map(|(path, file)| (path.clone(), file.bytes())).collect::<Vec<_>>();
    bytes(a) == bytes(b)
}
