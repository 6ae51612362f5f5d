//! A small log with the state after each of its records, and how it opens after its bytes were changed.

use std::fs;

use backupy_state::{Durability, Error, OpenOptions, Store};

use super::{Action, Image, Place, State, key, listing};

/// A log, and the state after each of its records: `states[0]` is empty.
pub(crate) struct Written {
    pub(crate) image: Image,
    pub(crate) states: Vec<State>,
}

impl Written {
    pub(crate) fn last(&self) -> &State {
        self.states.last().unwrap()
    }
}

pub(crate) fn actions() -> Vec<Action> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        Action::SaveConfig(7, text("configuration")),
        Action::Enqueue("run-1".into(), text("one")),
        Action::Enqueue("run-2".into(), text("two, a little longer")),
        Action::SaveSession("session".into(), -5),
        Action::BufferLog(20, text("later")),
        Action::BufferLog(10, text("earlier")),
        Action::Enqueue("run-1".into(), text("")),
        // All of them, so that looking at the last state does not write: `State::take` has nothing to drain.
        Action::Drain(2),
        Action::Ack("run-2".into()),
        Action::Heartbeat(1_700_000_000_000),
    ]
}

/// A small store, written with a sync after each call: every record but the last is vouched for.
pub(crate) fn write(place: &Place, durability: Durability) -> (Store, Vec<State>) {
    let store = OpenOptions::new().durability(durability).open(place.path(), &key()).unwrap();
    let mut states = vec![State::default()];
    for action in actions() {
        let mut state = states.last().unwrap().clone();
        assert!(action.run(&store, &mut state), "each action is a record");
        states.push(state);
    }
    (store, states)
}

/// A closed store without its reserve: the file ends with its last frame.
pub(crate) fn closed() -> Written {
    let place = Place::new();
    let (store, states) = write(&place, Durability::Sync);
    store.close().unwrap();
    let mut image = Image::read(place.path());
    image.without_space();
    Written { image, states }
}

/// As a killed process leaves it: without a close frame, and with a part of the preallocated space.
pub(crate) fn unclean() -> Written {
    let place = Place::new();
    let (_store, states) = write(&place, Durability::Sync);
    let mut image = Image::read(place.path());
    let end = image.end();
    assert!(image.len() > end + 5000);
    image.cut(end + 5000);
    Written { image, states }
}

/// The unclean log without the preallocated space.
pub(crate) fn bare() -> Written {
    let Written { mut image, states } = unclean();
    let end = image.end();
    image.cut(end);
    Written { image, states }
}

/// Opens a log that can be opened, in a place of its own.
pub(crate) fn open_image(image: &Image) -> (Place, Store) {
    let place = Place::new();
    let store = place.open_image(image);
    (place, store)
}

/// What becomes of a log when it is opened. A place can be used for one after the other.
impl Place {
    /// Opens a log that can be opened.
    pub(crate) fn open_image(&self, image: &Image) -> Store {
        self.put(image);
        self.try_open().unwrap()
    }

    /// Opens a log that must be refused, checks that nothing in the folder changes, and returns the error.
    pub(crate) fn refuse(&self, image: &Image) -> Error {
        self.put(image);
        let before = listing(self.folder());
        let error = self.try_open().unwrap_err();
        assert_eq!(listing(self.folder()), before);
        error
    }

    pub(crate) fn assert_corrupt(&self, image: &Image, expected: usize) {
        let error = self.refuse(image);
        assert!(matches!(error, Error::Corrupt { offset, .. } if offset == expected as u64), "{error:?}");
    }

    pub(crate) fn assert_unauthentic(&self, image: &Image, expected: usize) {
        let error = self.refuse(image);
        assert!(matches!(error, Error::Unauthentic { offset, .. } if offset == expected as u64), "{error:?}");
    }

    /// Opens a log whose bytes from `end` on are a torn tail, and checks where they are quarantined and what the
    /// log then holds.
    pub(crate) fn assert_torn(&self, image: &Image, end: usize, expected: &State) {
        let store = self.open_image(image);
        let nonzero_end = image.bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let tail = &image.bytes[end..nonzero_end];
        let report = store.recovery().clone();
        assert_eq!(report.quarantined_bytes, tail.len() as u64);
        assert_eq!(fs::read(report.quarantined.unwrap()).unwrap(), tail);
        assert!(!report.clean && !report.created);
        assert_eq!(Image::read(self.path()).bytes, image.bytes[..end]);
        assert_eq!(State::take(&store), *expected);
    }

    fn put(&self, image: &Image) {
        let _ = fs::remove_file(self.at("state.db.torn-1"));
        image.write(self.path());
    }
}
