//! The second reader, `reader.py`: written from FORMAT.md alone, without a look at this code, in another language.
//! It reads every file that the tests here make, also without the key and past damage.
//!
//! It runs where `BACKUPY_PYTHON` names an interpreter that has what `requirements.txt` lists, as in `.ci/run`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use backupy_state::testing::{Storage, salvage_on, verify_on};
use backupy_state::{AgentKey, Fault, FaultKind};
use serde_json::{Value, json};

use crate::agree::PATH;
use crate::memory::Memory;
use crate::page_reader::{self, Contents, Refusal};
use crate::vectors::to_hex;

const SALVAGED: &str = "/salvaged.db";
/// The program reads a file into memory, so the largest ones are left out.
const FILE_LEN_MAX: usize = 4 << 20;

struct Reader {
    _process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    file: tempfile::NamedTempFile,
}

static READER: LazyLock<Option<Mutex<Reader>>> = LazyLock::new(|| {
    let Some(python) = std::env::var_os("BACKUPY_PYTHON") else {
        println!("the reader in Python does not run: BACKUPY_PYTHON names no interpreter");
        return None;
    };
    let mut process = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/reader.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (requests, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    Some(Mutex::new(Reader { _process: process, requests, answers, file }))
});

impl Reader {
    fn ask(&mut self, file: &[u8], key: &[u8]) -> Value {
        std::fs::write(self.file.path(), file).unwrap();
        writeln!(self.requests, "{}\t{}", to_hex(key), self.file.path().display()).unwrap();
        let mut answer = String::new();
        assert!(self.answers.read_line(&mut answer).unwrap() > 0, "the reader in Python has ended");
        serde_json::from_str(&answer).unwrap()
    }
}

/// Has the program read the file, if it runs, and compares all that it says.
pub(crate) fn agree(file: &[u8], key: &[u8], what: &str) {
    let Some(reader) = READER.as_ref().filter(|_| file.len() <= FILE_LEN_MAX) else { return };
    // After one disagreement, the others are still of interest.
    let answer = reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner).ask(file, key);
    agree_on_reading(&answer["read"], file, key, what);
    agree_without_key(&answer["keyless"], file, what);
    agree_on_salvage(&answer["salvage"], file, key, what);
}

fn agree_on_reading(read: &Value, file: &[u8], key: &[u8], what: &str) {
    match page_reader::read(file, key) {
        Ok(log) => {
            let frame = |frame: &page_reader::Frame| {
                json!([frame.offset, frame.len, frame.seq, frame.durable_seq, frame.kind])
            };
            let expected = json!({
                "row": log.row, "offset": 0, "end": log.end, "torn_until": log.torn_until,
                "frames": log.frames.iter().map(frame).collect::<Vec<_>>(), "contents": hex_of(&log.contents),
            });
            assert_eq!(*read, expected, "{what}");
        }
        // The program only reads, so it goes on where a flag keeps out writers.
        Err(Refusal { row: "H4", .. }) if read["row"] != "H4" => {
            assert!([0, 2048].iter().any(|copy| file[copy + 18..copy + 20] != [0; 2]), "{what}: {read}");
        }
        Err(Refusal { row, offset }) => {
            assert_eq!((&read["row"], &read["offset"]), (&json!(row), &json!(offset)), "{what}");
        }
    }
}

fn agree_without_key(keyless: &Value, file: &[u8], what: &str) {
    let memory = Memory::with_file(PATH, file.to_vec());
    let Ok(report) = verify_on(&*memory, PATH, None, |_| {}) else {
        assert!(["H3", "H4"].iter().any(|row| keyless["row"] == *row), "{what}: {keyless}");
        return;
    };
    // Only the program that checks files reports these.
    let is_refusal =
        |fault: &&Fault| fault.kind != FaultKind::Header && !fault.what.contains("durable_seq is below");
    let refused = report.faults.iter().find(is_refusal).map(|fault| (fault.offset, fault.kind));
    let row = keyless["row"].as_str().unwrap();
    let kind = match row {
        "E1" | "E2" | "E3" => None,
        "H5" | "H6" | "H9" | "F6" => Some(FaultKind::Damage),
        _ => Some(FaultKind::Tampering),
    };
    assert_eq!(refused, kind.map(|kind| (keyless["offset"].as_u64().unwrap(), kind)), "{what}: {keyless}");
    if kind.is_none() {
        assert_eq!(
            (report.log_len, report.ends_closed),
            (keyless["end"].as_u64().unwrap(), row == "E1"),
            "{what}"
        );
        let torn_until = keyless["torn_until"].as_u64();
        assert_eq!(report.torn_len, torn_until.map_or(0, |until| until - report.log_len), "{what}");
    }
}

fn agree_on_salvage(salvage: &Value, file: &[u8], key: &[u8], what: &str) {
    let memory = Memory::with_file(PATH, file.to_vec());
    let storage: Arc<dyn Storage> = memory.clone();
    let Ok(report) = salvage_on(&storage, PATH, &AgentKey::new(key).unwrap(), SALVAGED) else {
        assert!(salvage.is_null(), "{what}: {salvage}");
        return;
    };
    let salvaged = page_reader::read(&memory.bytes(SALVAGED), key).unwrap();
    assert_eq!(salvage["contents"], hex_of(&salvaged.contents), "{what}");
    assert_eq!(salvage["complete"], report.is_complete(), "{what}: {report:?}");
    let gaps = report.lost.iter().filter(|lost| lost.what.starts_with("frames that are damaged"));
    let gaps: Vec<_> = gaps.map(|gap| json!([gap.offset, gap.first_seq, gap.last_seq])).collect();
    // In the others, no frame is missing.
    let is_loss = |gap: &&Value| gap[2].as_u64().is_none_or(|last| last >= gap[1].as_u64().unwrap());
    let expected: Vec<_> = salvage["gaps"].as_array().unwrap().iter().filter(is_loss).cloned().collect();
    assert_eq!(gaps, expected, "{what}");
}

/// The live values by bucket and key, in hex; null where a value does not open or is not as its bucket's values
/// are.
fn hex_of(contents: &Contents) -> Value {
    let bucket = |(number, values): (u8, BTreeMap<Vec<u8>, Option<Vec<u8>>>)| {
        let values = values.into_iter().map(|(key, value)| (to_hex(&key), value.as_deref().map(to_hex)));
        (number.to_string(), values.collect::<BTreeMap<_, _>>())
    };
    json!(contents.readable().into_iter().map(bucket).collect::<BTreeMap<_, _>>())
}
