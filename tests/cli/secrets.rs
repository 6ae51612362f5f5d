//! No command shows a secret without being asked to.

use crate::sandbox::{EVENT, KEY, PAYLOAD, RAW_CONFIG, READS, SESSION_ID, Sandbox, WRITES};

#[test]
fn reads_hide_secrets() {
    let sandbox = Sandbox::filled();
    let healthy = READS.iter().flat_map(|read| [sandbox.run(read), sandbox.run(&format!("{read} --json"))]);
    for outcome in healthy {
        for secret in [KEY, RAW_CONFIG, SESSION_ID, PAYLOAD, EVENT, "00ff62"] {
            assert!(!outcome.out.contains(secret) && !outcome.err.contains(secret), "{outcome:?}");
        }
    }
}

#[test]
fn writes_hide_secrets_and_leave_an_intact_store() {
    for (write, stdin) in WRITES {
        for write in [write.to_owned(), format!("{write} --json")] {
            let sandbox = Sandbox::filled();
            let outcome = sandbox.fed(&write, stdin.as_bytes());
            for secret in [KEY, RAW_CONFIG, SESSION_ID, PAYLOAD, EVENT, "00ff62"] {
                assert!(!outcome.out.contains(secret) && !outcome.err.contains(secret), "{outcome:?}");
            }
            outcome.success();
            sandbox.run("verify").success();
        }
    }
}
