//! Frames that the store does not write, but a holder of the key can: values that do not match their bucket's
//! encoding, header fields that no writer sets, and removals in every bucket.

use backupy_state::{AgentKey, FaultKind, Store, salvage, verify};

use crate::agree;
use crate::page_reader::{self, Header};
use crate::page_writer::Draft;
use crate::vectors::{AGENT_KEY, files_on_page};

const REGISTRY: u8 = 3;

fn draft(seq: u64, bucket: u8, key: &str, value: &[u8]) -> Draft {
    let mut manifest = vec![1, 0, 0, 0, 1, bucket];
    manifest.extend((key.len() as u16).to_le_bytes());
    manifest.extend(key.as_bytes());
    manifest.extend((value.len() as u32).to_le_bytes());
    Draft {
        len: None,
        manifest_len: None,
        seq,
        durable_seq: seq - 1,
        kind: 1,
        zero: [0; 3],
        manifest,
        values: vec![value.to_vec()],
        padding: None,
    }
}

/// A log of these frames under the header of the page, and where each of them begins.
fn log_of(drafts: &[Draft]) -> (Vec<u8>, Vec<usize>) {
    let mut log = files_on_page(&crate::page())[0][..8192].to_vec();
    log[4096..].fill(0);
    let header: Header = page_reader::read(&log, AGENT_KEY).unwrap_or_else(|refusal| panic!("{refusal:?}")).header;
    let mut chain = *header.authenticator.first_chunk().unwrap();
    let mut starts = Vec::new();
    for draft in drafts {
        let frame = draft.seal(&chain, &header);
        chain = *frame[48 + draft.manifest.len()..].first_chunk().unwrap();
        starts.push(log.len());
        log.extend(frame);
    }
    (log, starts)
}

#[test]
fn a_value_that_its_bucket_does_not_hold_is_a_fault_and_is_not_salvaged() {
    let cases: [(u8, &str, &[u8]); 5] = [
        (1, "current", b"1234567"),
        (REGISTRY, "session", b"1234567"),
        (REGISTRY, "session", b"12345678\xFF"),
        (REGISTRY, "heartbeat", b"123456789"),
        (REGISTRY, "dropped", b""),
    ];
    let key = AgentKey::new(AGENT_KEY).unwrap();
    for (bucket, name, value) in cases {
        let (log, starts) = log_of(&[draft(1, bucket, name, value), draft(2, 2, "job", b"payload")]);
        let folder = tempfile::tempdir().unwrap();
        let (path, to) = (folder.path().join("state.db"), folder.path().join("new.db"));
        std::fs::write(&path, log).unwrap();
        let report = verify(&path, Some(&key)).unwrap();
        let value_at = (starts[0] + 48 + 4 + 4 + name.len() + 4 + 16) as u64;
        let faults: Vec<_> = report.faults.iter().map(|fault| (fault.offset, fault.kind)).collect();
        assert_eq!(faults, [(value_at, FaultKind::Tampering)], "{name}");
        assert!(verify(&path, None).unwrap().is_intact());

        let salvaged = salvage(&path, &key, &to).unwrap();
        assert_eq!((salvaged.lost.len(), salvaged.lost[0].offset, salvaged.jobs), (1, value_at, 1), "{name}");
        assert!(verify(&to, Some(&key)).unwrap().is_intact());
        let store = Store::open(&to, &key).unwrap();
        assert_eq!(store.dequeue_jobs(1).unwrap()[0].payload, b"payload");
        assert!(store.load_config().unwrap().is_none() && store.load_session().unwrap().is_none());
        assert!(store.last_heartbeat().unwrap().is_none());
    }
}

/// A store never deletes its configuration, and deletes through a key only in the log buffer.
#[test]
fn every_action_is_read_in_every_bucket() {
    let held = [
        (1, "current", "12345678raw"),
        (2, "a", "payload"),
        (2, "ä", ""),
        (REGISTRY, "dropped", "12345678"),
        (REGISTRY, "heartbeat", "12345678"),
        (REGISTRY, "session", "12345678id"),
        (4, "time and ordinal", "event"),
        (4, "time and ordinbl", "a later event"),
        (5, "a", "value"),
        (5, "ä", ""),
    ];
    let puts: Vec<_> =
        (1..).zip(held).map(|(seq, (bucket, key, value))| draft(seq, bucket, key, value.as_bytes())).collect();
    for (bucket, key, _) in held {
        for kind in [2, 3] {
            let mut removal = draft(puts.len() as u64 + 1, bucket, key, b"");
            removal.manifest[4] = kind;
            removal.manifest.truncate(removal.manifest.len() - 4);
            removal.values.clear();
            let (log, _) = log_of(&[&puts[..], &[removal]].concat());
            assert_eq!(agree(&log, AGENT_KEY, &format!("action {kind} in bucket {bucket}: {key}")), "E2");
        }
    }
}

/// A writer knows of more and more that is durable.
#[test]
fn a_durable_mark_that_falls_is_a_fault() {
    let key = AgentKey::new(AGENT_KEY).unwrap();
    let mut third = draft(3, 2, "job", b"three");
    third.durable_seq = 0;
    let (log, starts) = log_of(&[draft(1, 2, "job", b"one"), draft(2, 2, "job", b"two"), third]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    std::fs::write(&path, log).unwrap();
    for key in [None, Some(&key)] {
        let report = verify(&path, key).unwrap();
        let faults: Vec<_> = report.faults.iter().map(|fault| (fault.offset, fault.kind)).collect();
        assert_eq!(faults, [(starts[2] as u64, FaultKind::Tampering)]);
    }
}
