//! The store that a command works on, and its key.

use std::env;
use std::fs;
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;

use backupy_state::testing::{self, belongs_to_store, mode_if_readable_by_all, path_of_store};
use backupy_state::{AgentKey, CompactionPolicy, Error, OpenOptions, Snapshot, Store};

use crate::failure::{Exit, Failure};
use crate::line::print_to_stderr;
use crate::text::len_of_file;

/// The arguments that select the state file and the key.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// The state file [default: $BACKUPY_STATE_DIR/state.db, else /var/lib/backupy/state.db]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS)]
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) state: Option<PathBuf>,

    /// The file with the agent key [default: the key is read from $BACKUPY_AGENT_KEY]
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS)]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key_file: Option<PathBuf>,
}

/// The heading in `--help` for the options that every command has.
pub(crate) const GLOBAL_OPTIONS: &str = "Global options";

impl Target {
    pub(crate) fn state(&self) -> PathBuf {
        if let Some(path) = &self.state {
            return path.clone();
        }
        let folder = env::var_os(STATE_DIR_VAR).filter(|folder| !folder.is_empty());
        folder.map_or_else(|| DEFAULT_DIR.into(), PathBuf::from).join("state.db")
    }

    /// The absolute path of the state file, as the library would open it, for a report that it has no part in. If
    /// the library would refuse the path, that path.
    pub(crate) fn absolute_state(&self) -> PathBuf {
        let state = self.state();
        path_of_store(&state).unwrap_or_else(|_| absolute(&state))
    }

    /// Fails if the path means the state file, or one of the files that the store keeps next to it: a command
    /// neither reads its input from these nor writes anything else there.
    pub(crate) fn refuse_own_file(&self, path: &Path) -> Result<(), Failure> {
        let state = self.state();
        if !belongs_to_store(path, &state) {
            return Ok(());
        }
        let (path, state) = (path.display(), state.display());
        Err(Failure::usage(format!("{path} belongs to the store {state}; choose another file")))
    }

    /// The state file, with the extension that the library adds.
    pub(crate) fn state_path(&self) -> PathBuf {
        let mut path = self.state();
        if path.extension().is_none() {
            path.set_extension("db");
        }
        path
    }

    /// The length of the state file; 0 if there is none.
    pub(crate) fn state_len(&self) -> u64 {
        len_of_file(&self.state_path())
    }

    pub(crate) fn key(&self) -> Result<AgentKey, Failure> {
        self.read_key("agent key", self.key_file.as_deref(), "--key-file", KEY_VAR)
    }

    /// The key, for a command that can do without.
    pub(crate) fn key_unless(&self, no_key: bool) -> Result<Option<AgentKey>, Failure> {
        if no_key { Ok(None) } else { self.key().map(Some) }
    }

    /// The key for `rekey`.
    pub(crate) fn new_key(&self, file: Option<&Path>) -> Result<AgentKey, Failure> {
        self.read_key("new agent key", file, "--new-key-file", NEW_KEY_VAR)
    }

    fn read_key(&self, what: &str, file: Option<&Path>, option: &str, var: &str) -> Result<AgentKey, Failure> {
        let key = match file {
            Some(path) => {
                self.refuse_own_file(path)?;
                AgentKey::from_file(path)
            }
            None if env::var_os(var).is_some() => AgentKey::from_env(var),
            None => return Err(Failure::usage(format!("no {what}; give {option} or set {var}"))),
        };
        if let (Ok(_), Some(path)) = (&key, file) {
            warn_if_readable_by_all(path);
        }
        // Not through `Failure::from`: a missing key file is not a missing store.
        key.map_err(|error| Failure::from(error).exiting(Exit::Usage))
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, Failure> {
        let key = self.key()?;
        Ok(Snapshot::open(self.state(), &key)?)
    }

    /// Opens the store and takes its lock. A missing store is an error. Turns automatic compaction off, so that a
    /// command changes only what it was asked to.
    pub(crate) fn open(&self, lock: &Lock, options: &mut OpenOptions) -> Result<Store, Failure> {
        self.open_or_create(&self.key()?, lock, options.create(false))
    }

    /// [`open`](Target::open), but creates a missing store, unless `options` forbid it. The caller has read the
    /// key: a key file that is a pipe can be read only once.
    pub(crate) fn open_or_create(
        &self,
        key: &AgentKey,
        lock: &Lock,
        options: &mut OpenOptions,
    ) -> Result<Store, Failure> {
        let mut policy = CompactionPolicy::default();
        policy.automatic = false;
        let options = options.compaction(policy);
        Ok(options.lock_timeout(Duration::from_secs(lock.lock_timeout.into())).open(self.state(), key)?)
    }
}

/// The absolute path, for a report. Links are not followed.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The argument of every command that takes the lock.
#[derive(clap::Args)]
pub(crate) struct Lock {
    /// How long to wait while another process holds the lock; 0 tries once
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    lock_timeout: u32,
}

/// Where a copy of the store that is to be made at `to` will be.
pub(crate) fn path_of_copy(to: &Path) -> Result<PathBuf, Failure> {
    testing::path_of_copy(to).map_err(|error| match error {
        // A folder in the place of the copy is no foreign store.
        Error::NotAStore { path, what, .. } => {
            Failure::usage(format!("{} is {what}; name a file", path.display()))
        }
        error => of_copy(error),
    })
}

/// The failure to make a copy of the store.
pub(crate) fn of_copy(error: Error) -> Failure {
    match error {
        // Not through `Failure::from`: a missing folder for the copy is not a missing store.
        Error::Io { .. } => Failure::from(error).exiting(Exit::Failure),
        error => error.into(),
    }
}

/// The library has an event for this, which nothing in this program listens to.
fn warn_if_readable_by_all(path: &Path) {
    if let Some(mode) = fs::metadata(path).ok().as_ref().and_then(mode_if_readable_by_all) {
        let path = path.display();
        let warning = format!("every user can read the key file {path} (mode {mode:04o}); chmod 600 {path}");
        print_to_stderr(&format!("warning: {warning}"));
    }
}

const STATE_DIR_VAR: &str = "BACKUPY_STATE_DIR";
const KEY_VAR: &str = "BACKUPY_AGENT_KEY";
const NEW_KEY_VAR: &str = "BACKUPY_NEW_AGENT_KEY";
const DEFAULT_DIR: &str = "/var/lib/backupy";
