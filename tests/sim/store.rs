//! How an agent opens its store.

use std::ops::Deref;
use std::path::Path;

use backupy_state::testing::{index_every, options_on, policy};
use backupy_state::{AgentKey, Durability, Error, LogLimits, OpenOptions, QueueOrder, Result, Store, WhenFull};

use super::Machine;
use super::call::Call;
use super::world::World;

pub const PATH: &str = "/sim/state.db";
/// Where recovery puts a torn tail.
pub const TORN: &str = "/sim/state.db.torn-1";

/// Which calls return before they are durable, and what the log buffer does with more than [`FEW`] events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No call. The buffer holds any number of events.
    Sync,
    /// Heartbeats and the calls about log events. The oldest events make room.
    Mixed,
    /// All calls. New events are dropped.
    Buffered,
    /// As `Sync`, with a run of the index file after every few frames.
    Indexed,
}

/// After so many bytes of frames, the index file gets a run, in the mode with one.
const RUN_LEN: u64 = 200;

/// How many log events the buffer holds, in the modes with a limit.
pub const FEW: usize = 2;

impl Mode {
    /// Those without an index file.
    pub const ALL: [Mode; 3] = [Mode::Sync, Mode::Mixed, Mode::Buffered];

    pub fn options(self, machine: &impl Machine) -> OpenOptions {
        let mut options = options_on(machine.storage());
        options.mmap(false).queue_order(QueueOrder::Fifo);
        // A compaction on its own thread would start at another operation in each run.
        // In a short log, a step of preallocation is short too: each write of zeros is one more place to cut.
        options.compaction(policy(|policy| (policy.automatic, policy.min_len) = (false, 256 << 10)));
        let mut limits = LogLimits::default();
        if let Some(when_full) = self.when_full() {
            limits.max_count = Some(FEW as u64);
            limits.when_full = when_full;
        }
        options.log_limits(limits);
        match self {
            Mode::Sync => {}
            Mode::Indexed => {
                index_every(&mut options, RUN_LEN);
            }
            Mode::Mixed => {
                options.heartbeat_durability(Durability::Buffered).log_durability(Durability::Buffered);
            }
            Mode::Buffered => {
                options.durability(Durability::Buffered);
            }
        }
        options
    }

    pub(super) fn is_durable(self, call: Call) -> bool {
        match call {
            Call::Sync | Call::Compact | Call::Rekey => true,
            Call::Heartbeat | Call::BufferLog { .. } | Call::DrainLogs { .. } | Call::AckLogs { .. } => {
                matches!(self, Mode::Sync | Mode::Indexed)
            }
            _ => self != Mode::Buffered,
        }
    }

    pub(super) fn when_full(self) -> Option<WhenFull> {
        match self {
            Mode::Sync | Mode::Indexed => None,
            Mode::Mixed => Some(WhenFull::DropOldest),
            Mode::Buffered => Some(WhenFull::DropNewest),
        }
    }
}

/// The key that a new store is under.
pub fn key() -> AgentKey {
    key_of(false)
}

/// The key that [`Call::Rekey`] puts it under.
pub fn other_key() -> AgentKey {
    key_of(true)
}

/// The first key, or the other one.
pub fn key_of(is_other: bool) -> AgentKey {
    let key = ["bkpy_0123456789abcdef0123456789abcdef", "bkpy_fedcba9876543210fedcba9876543210"];
    AgentKey::new(key[usize::from(is_other)]).unwrap()
}

/// A store that is open, and which key opened it.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub is_other_key: bool,
}

impl Deref for Opened {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// Opens the store of a machine, with the first key or else with the other one.
pub fn open(machine: &impl Machine, mode: Mode) -> Result<Opened> {
    open_at(machine, mode, &machine.path(), false)
}

/// The same at another path. `first_try` says which of the two keys is tried first.
pub fn open_at(machine: &impl Machine, mode: Mode, path: &Path, first_try: bool) -> Result<Opened> {
    let open = |is_other_key| {
        let store = mode.options(machine).open(path, &key_of(is_other_key))?;
        Ok(Opened { store, is_other_key })
    };
    match open(first_try) {
        Err(Error::WrongKey { .. }) => open(!first_try),
        opened => opened,
    }
}

/// Whether the store's file is there at all.
pub fn exists(world: &World) -> bool {
    world.named(Path::new(PATH)).is_some()
}
