//! What a store shows, if some of it is refused: each value by itself, and in each way to look.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use backupy_state::testing::{open_snapshot_on, verify_on};
use backupy_state::{Anchor, Check, Error, Result, Session, Snapshot, Store};

use crate::sim::world::World;
use crate::sim::{Mode, Model, PATH, Sim, key_of};

/// The values of a store by their names. Without the value where it was refused.
pub(super) type Shown = BTreeMap<String, Option<Vec<u8>>>;

/// `Store` and `Snapshot` have the same calls to read, and no trait.
macro_rules! shown {
    ($store:expr, $is_other_key:expr) => {{
        let store = $store;
        let mut shown = Shown::from([(KEY.to_owned(), Some(vec![u8::from($is_other_key)]))]);
        let mut show = |name: String, read: Result<Option<Vec<u8>>>| {
            let read = read.inspect_err(assert_names_the_place);
            if !matches!(read, Ok(None)) {
                shown.insert(name, read.unwrap_or(None));
            }
        };
        show(
            CONFIG.to_owned(),
            store.load_config().map(|it| it.map(|it| numbered(it.version.cast_signed(), &it.raw))),
        );
        let of_session = |it: Session| numbered(it.server_time_ms, it.session_id.as_bytes());
        show(SESSION.to_owned(), store.load_session().map(|it| it.map(of_session)));
        show(HEARTBEAT.to_owned(), store.last_heartbeat().map(|it| it.map(|it| numbered(it, b""))));
        for run_id in store.run_ids() {
            show(job(&run_id), store.job(&run_id).map(|it| it.map(|it| it.payload)));
        }
        for (i, it) in store.logs().enumerate() {
            show(event(i), it.map(|it| Some(numbered(it.ts_ms, &it.payload))));
        }
        for key in store.data_keys("") {
            show(data(&key), store.data(&key));
        }
        shown
    }};
}

const KEY: &str = "key";
const CONFIG: &str = "config";
const SESSION: &str = "session";
const HEARTBEAT: &str = "heartbeat";

fn job(run_id: &str) -> String {
    format!("job {run_id}")
}

fn event(i: usize) -> String {
    format!("event {i}")
}

fn data(key: &str) -> String {
    format!("data {key}")
}

fn numbered(number: i64, bytes: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), bytes].concat()
}

pub(super) fn shown_by(store: &Store, is_other_key: bool) -> Shown {
    shown!(store, is_other_key)
}

pub(super) fn shown_by_snapshot(snapshot: &Snapshot, is_other_key: bool) -> Shown {
    shown!(snapshot, is_other_key)
}

/// What a store in this state shows.
fn expected(model: &Model) -> Shown {
    let mut expected = Shown::from([(KEY.to_owned(), Some(vec![u8::from(model.is_other_key)]))]);
    let mut expect = |name: String, value: Vec<u8>| {
        expected.insert(name, Some(value));
    };
    model.config.iter().for_each(|(version, raw)| expect(CONFIG.to_owned(), numbered(version.cast_signed(), raw)));
    let session = model.session.iter();
    session.for_each(|(id, time)| expect(SESSION.to_owned(), numbered(*time, id.as_bytes())));
    model.heartbeat.iter().for_each(|time| expect(HEARTBEAT.to_owned(), numbered(*time, b"")));
    model.jobs.iter().for_each(|(run_id, payload)| expect(job(run_id), payload.clone()));
    let events = model.logs.iter().enumerate();
    events.for_each(|(i, (ts_ms, payload))| expect(event(i), numbered(*ts_ms, payload)));
    model.data.iter().for_each(|(key, value)| expect(data(key), value.clone()));
    expected
}

/// Whether it is the state `model`, as far as it is shown.
pub(super) fn is_state(shown: &Shown, model: &Model) -> bool {
    let expected = expected(model);
    let is_same = |((name, value), (other, expected)): ((&String, &Option<_>), (&String, &Option<_>))| {
        name == other && (value.is_none() || value == expected)
    };
    shown.len() == expected.len() && shown.iter().zip(&expected).all(is_same)
}

/// Whether no value was refused.
pub(super) fn is_whole(shown: &Shown) -> bool {
    shown.values().all(Option::is_some)
}

/// What is noticed is an error that says where.
pub(super) fn assert_names_the_place(error: &Error) {
    let is_typed = match error {
        Error::Corrupt { path, .. } | Error::Unauthentic { path, .. } | Error::NotAStore { path, .. } => {
            path.starts_with("/sim")
        }
        Error::Invalid { what, .. } => what.starts_with("/sim/") && what.contains("is in the way"),
        Error::Io { path, source, .. } => path.starts_with("/sim") && source.kind() == ErrorKind::InvalidData,
        // The store takes no more calls once a write or a sync has failed.
        Error::Failed { .. } => true,
        _ => false,
    };
    assert!(is_typed, "{error:?}");
}

/// What the next processes see.
pub(super) struct Look {
    pub(super) live: Result<Shown>,
    /// With [`Check::Everything`].
    pub(super) everything: Result<Shown>,
    /// Without the lock.
    pub(super) snapshot: Result<Shown>,
    pub(super) is_intact: bool,
    /// Whether recovery has cut off a torn tail.
    pub(super) is_torn: bool,
}

impl Look {
    pub(super) fn at(world: &World) -> Look {
        let live = with_either_key(|key| {
            let store = opened(world, Check::Live, None, key)?;
            Ok((shown_by(&store, key), store.recovery().quarantined.is_some()))
        });
        let is_torn = live.as_ref().is_ok_and(|(_, is_torn)| *is_torn);
        let everything = |key| Ok(shown_by(&opened(world, Check::Everything, None, key)?, key));
        let snapshot = |key| {
            match open_snapshot_on(Arc::new(Sim::at(world.clone(), 1)), PATH, &key_of(key)) {
                // The writer makes an empty store where there is none.
                Err(Error::NotFound { .. }) => Ok(expected(&Model::default())),
                snapshot => Ok(shown_by_snapshot(&snapshot?, key)),
            }
        };
        let is_intact = |key| {
            let report = verify_on(&Sim::at(world.clone(), 1), PATH, Some(&key_of(key)), |_| {})?;
            Ok(report.is_intact())
        };
        Look {
            live: live.map(|(shown, _)| shown),
            everything: with_either_key(everything),
            snapshot: with_either_key(snapshot),
            is_intact: with_either_key(is_intact).unwrap_or(false),
            is_torn,
        }
    }
}

/// Whether the store is refused to those who have kept the anchor.
pub(super) fn is_refused_by(anchor: Anchor, world: &World) -> bool {
    with_either_key(|key| opened(world, Check::Live, Some(anchor), key)).is_err()
}

fn opened(world: &World, check: Check, anchor: Option<Anchor>, is_other_key: bool) -> Result<Store> {
    let mut options = Mode::Sync.options(&Sim::at(world.clone(), 1));
    if let Some(anchor) = anchor {
        options.expect_at_least(anchor);
    }
    options.check(check).open(PATH, &key_of(is_other_key))
}

fn with_either_key<T>(look: impl Fn(bool) -> Result<T>) -> Result<T> {
    match look(false) {
        Err(Error::WrongKey { .. }) => look(true),
        looked => looked,
    }
}
