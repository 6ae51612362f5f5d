//! Which store, and under which key.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;

use backupy_state::{AgentKey, CompactionPolicy, Error, OpenOptions, Snapshot, Store};

use crate::failure::Failure;
use crate::text::len_of_file;

/// Where the state and the key are.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// The state file [default: $BACKUPY_STATE_DIR/state.db, else /var/lib/backupy/state.db]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) state: Option<PathBuf>,

    /// The file with the agent key [default: the key itself is in $BACKUPY_AGENT_KEY]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
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

    /// How long the state file is; 0 where there is none.
    pub(crate) fn state_len(&self) -> u64 {
        let mut path = self.state();
        if path.extension().is_none() {
            // As the library reads it.
            path.set_extension("db");
        }
        len_of_file(&path)
    }

    pub(crate) fn key(&self) -> Result<AgentKey, Failure> {
        read_key("agent key", self.key_file.as_deref(), "--key-file", KEY_VAR)
    }

    /// The key that the store will be under.
    pub(crate) fn new_key(&self, file: Option<&Path>) -> Result<AgentKey, Failure> {
        read_key("new agent key", file, "--new-key-file", NEW_KEY_VAR)
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, Failure> {
        let key = self.key()?;
        Ok(Snapshot::open(self.state(), &key)?)
    }

    /// The store itself, with its lock; it compacts when it is told to, and not otherwise.
    pub(crate) fn open(&self, lock: &Lock, options: &mut OpenOptions) -> Result<Store, Failure> {
        self.open_or_create(lock, options.create(false))
    }

    /// The same; a missing store is made, unless the options say otherwise.
    pub(crate) fn open_or_create(&self, lock: &Lock, options: &mut OpenOptions) -> Result<Store, Failure> {
        let key = self.key()?;
        let mut policy = CompactionPolicy::default();
        policy.automatic = false;
        let options = options.compaction(policy);
        Ok(options.lock_timeout(Duration::from_secs(lock.lock_timeout.into())).open(self.state(), &key)?)
    }
}

/// How long to wait for whoever holds the store.
#[derive(clap::Args)]
pub(crate) struct Lock {
    /// How long to wait for another process to let go of the store; 0 tries once
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    lock_timeout: u32,
}

fn read_key(what: &str, file: Option<&Path>, option: &str, var: &str) -> Result<AgentKey, Failure> {
    let key = match file {
        Some(path) => AgentKey::from_file(path),
        None if env::var_os(var).is_some() => AgentKey::from_env(var),
        None => return Err(Failure::usage(format!("there is no {what}; give {option} or set {var}"))),
    };
    key.map_err(|error| match error {
        // Not through `Failure::from`: a missing key file is no missing store.
        Error::Io { .. } | Error::TooLarge { .. } => Failure::failed(error.to_string()),
        error => Failure::usage(error.to_string()),
    })
}

const STATE_DIR_VAR: &str = "BACKUPY_STATE_DIR";
const KEY_VAR: &str = "BACKUPY_AGENT_KEY";
const NEW_KEY_VAR: &str = "BACKUPY_NEW_AGENT_KEY";
const DEFAULT_DIR: &str = "/var/lib/backupy";
