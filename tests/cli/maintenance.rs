//! What `compact`, `rekey` and `backup` have in common: a failure changes nothing. The first two need the lock.

use std::fs;

use backupy_state::{AgentKey, Store};

use crate::rekey::NEW_KEY;
use crate::sandbox::Sandbox;

/// A call of `compact`, `rekey` and `backup`.
pub(crate) const MAINTENANCE: [&str; 3] =
    ["compact", "rekey --new-key-file [DIR]/new.key", "backup [DIR]/copy.db"];

impl Sandbox {
    /// [`filled`](Sandbox::filled), with large acked jobs, few enough that `close` does not compact, and the key
    /// file for `rekey`.
    pub(crate) fn with_dead_space() -> Self {
        let sandbox = Sandbox::empty();
        let store = sandbox.fill();
        for _ in 0..3 {
            store.enqueue_job("large", &[7; 40_000]).unwrap();
            store.ack_job("large").unwrap();
        }
        store.close().unwrap();
        sandbox.write_new_key();
        sandbox
    }

    pub(crate) fn write_new_key(&self) {
        self.write_key_file("new.key", &format!("{NEW_KEY}\n"));
    }

    /// Inserts the folder into a call of [`MAINTENANCE`].
    pub(crate) fn maintenance(&self, command: &str) -> String {
        command.replace("[DIR]", self.folder.path().to_str().unwrap())
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn maintenance_waits_for_the_agent_and_then_gives_up() {
    let sandbox = Sandbox::with_dead_space();
    let store = sandbox.open();
    let before = sandbox.bytes();
    let files = sandbox.files();
    for command in &MAINTENANCE[..2] {
        let outcome = sandbox.run(&format!("{} --lock-timeout 0", sandbox.maintenance(command)));
        assert!(
            outcome.failed(5).contains(&format!("is in use by process {}", std::process::id())),
            "{outcome:?}"
        );
    }
    assert!(sandbox.bytes() == before);
    assert_eq!(sandbox.files(), files);
    store.close().unwrap();
}

#[test]
fn maintenance_of_a_missing_foreign_or_damaged_store_changes_nothing() {
    let sandbox = Sandbox::empty();
    sandbox.write_new_key();
    for command in MAINTENANCE {
        sandbox.run(&sandbox.maintenance(command)).failed(6);
    }
    assert_eq!(sandbox.files(), ["new.key"]);

    Store::open(sandbox.state(), &AgentKey::new("another").unwrap()).unwrap().close().unwrap();
    let foreign = sandbox.bytes();
    let mut damaged = Sandbox::filled().bytes();
    damaged[8192 + 60] ^= 1;
    for (bytes, code) in [(foreign, 4), (damaged, 3), (b"To do: milk, bread\n".to_vec(), 7)] {
        sandbox.write(&bytes);
        for command in MAINTENANCE {
            sandbox.run(&sandbox.maintenance(command)).failed(code);
        }
        assert!(sandbox.bytes() == bytes);
        assert_eq!(sandbox.files(), ["new.key", "state.db", "state.db.lock"]);
    }
}
