//! The section *Test vectors* of FORMAT.md: makes its files, renders them, and reads them back from the page.

use std::fmt::Write;
use std::sync::Arc;

use backupy_state::testing::options_on;
use backupy_state::{AgentKey, Batch, Durability};
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::damaged;
use crate::memory::{CLOCK_NS, Memory};
use crate::page_reader::{self, Frame, Log, Operation, Position};

pub(crate) const AGENT_KEY: &[u8] = b"agent key of the FORMAT.md file!";
const BEGIN: &str = "<!-- generated: begin -->\n";
const END: &str = "<!-- generated: end -->\n";

/// One of the files on the page.
pub(crate) struct Vector {
    pub(crate) number: usize,
    title: &'static str,
    /// Before the names of its values.
    prefix: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// How many bytes the random generator had given before the bytes for frame 1.
    random_before: usize,
}

pub(crate) fn vectors() -> [Vector; 2] {
    let compacted = write_compacted();
    // Store id, salt and 3 frames of generation 1, and the salt of generation 2.
    let random_before = 16 + 32 + 3 * 32 + 32;
    [
        Vector { number: 1, title: "a closed log", prefix: "", bytes: write_store(), random_before: 16 + 32 },
        Vector { number: 2, title: "a compacted and closed log", prefix: "c.", bytes: compacted, random_before },
    ]
}

/// A base, a record after it, and a close frame.
fn write_compacted() -> Vec<u8> {
    let memory = Arc::new(Memory::default());
    let store = options_on(memory.clone()).open("/state.db", &AgentKey::new(AGENT_KEY).unwrap()).unwrap();
    store.save_config(8, b"every=2h").unwrap();
    store.enqueue_job("job-a", b"dump a").unwrap();
    store.ack_job("job-a").unwrap();
    store.compact().unwrap();
    store.enqueue_job("job-c", b"dump c").unwrap();
    store.close().unwrap();
    without_reserve(memory.bytes("/state.db"))
}

/// Up to the end of the last frame.
fn without_reserve(mut log: Vec<u8>) -> Vec<u8> {
    log.truncate(page_reader::read(&log, AGENT_KEY).unwrap().end);
    log
}

/// Every operation kind, every bucket that has calls, several values in a record, both sides of durable_seq, a
/// close frame.
pub(crate) fn write_store() -> Vec<u8> {
    let memory = Arc::new(Memory::default());
    let store = options_on(memory.clone())
        .log_durability(Durability::Buffered)
        .open("/state.db", &AgentKey::new(AGENT_KEY).unwrap())
        .unwrap();
    store.save_config(7, b"every=1h").unwrap();
    let batch = Batch::new().enqueue_job("job-a", b"dump a").enqueue_job("job-b", b"");
    store.write(&batch.save_session("s-1", 1_700_000_000_000)).unwrap();
    store.buffer_log(-1500, b"long ago").unwrap();
    store.buffer_log(-1, b"just before 1970").unwrap();
    store.write(&Batch::new().ack_job("job-a").record_heartbeat(1_700_000_030_000)).unwrap();
    assert_eq!(store.drain_logs(1).unwrap().len(), 1);
    store.close().unwrap();
    without_reserve(memory.bytes("/state.db"))
}

/// Where the generated part of the page is.
pub(crate) fn generated_part(page: &str) -> std::ops::Range<usize> {
    page.find(BEGIN).unwrap() + BEGIN.len()..page.find(END).unwrap()
}

/// The files in the page's hex; bytes that no line shows are zero.
pub(crate) fn files_on_page(page: &str) -> Vec<Vec<u8>> {
    let part = &page[generated_part(page)];
    part.split("### File ").skip(1).map(file_in).collect()
}

fn file_in(part: &str) -> Vec<u8> {
    let title = part.lines().next().unwrap();
    let len = title.rsplit(", ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    let mut file = vec![0; len];
    for (offset, rest) in part.lines().filter_map(|line| line.split_once("  ")) {
        let Ok(offset) = usize::from_str_radix(offset, 16) else { continue };
        let hex = rest.split(" ;").next().unwrap().replace(' ', "");
        let bytes = from_hex(&hex);
        file[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
    file
}

/// The page's lines `name = hex`, each with the lines that continue it.
pub(crate) fn values_on_page(page: &str) -> Vec<(String, Vec<u8>)> {
    let mut values: Vec<(String, Vec<u8>)> = Vec::new();
    for line in page[generated_part(page)].lines() {
        if let Some((name, hex)) = line.split_once(" = ") {
            values.push((name.trim().to_owned(), from_hex(if hex == EMPTY { "" } else { hex })));
        } else if let (Some(hex), Some((_, value))) = (line.strip_prefix(CONTINUED), values.last_mut()) {
            value.extend(from_hex(hex));
        }
    }
    values
}

impl Vector {
    pub(crate) fn log(&self) -> Log {
        page_reader::read(&self.bytes, AGENT_KEY).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// The bytes of the random generator for frame `seq`.
    fn random(&self, seq: u64) -> Vec<u8> {
        let first = self.random_before + 32 * (seq as usize - 1);
        (first..first + 32).map(|count| count as u8).collect()
    }

    /// All intermediate values, in the order of the page.
    pub(crate) fn values(&self) -> Vec<(String, Vec<u8>)> {
        let log = self.log();
        let header = &log.header;
        let mut values = Vec::new();
        let mut add = |name: &str, value: &[u8]| values.push((format!("{}{name}", self.prefix), value.to_vec()));
        add("agent_key", AGENT_KEY);
        add("store_id", &header.store_id);
        add("salt", &header.salt);
        add("prk", &header.prk);
        add("authenticator", &header.authenticator);
        add("frame_key", &header.frame_key);
        add("nonce_key", &header.nonce_key);
        add("header_crc", &header.copy[112..]);
        if let Some(mac) = header.base.and_then(|base| base.mac) {
            add("base_mac", &mac);
        }
        for frame in &log.frames {
            let mut add = |name: &str, value: &[u8]| {
                values.push((format!("{}f{}.{name}", self.prefix, frame.seq), value.to_vec()));
            };
            add("chain", &frame.chain);
            add("random", &self.random(frame.seq));
            add("nonce", &nonce_of(&log, frame, &self.random(frame.seq)));
            assert_eq!(nonce_of(&log, frame, &self.random(frame.seq)), frame.nonce, "frame {}", frame.seq);
            add("aad", &frame.manifest_aad);
            add("manifest", &frame.manifest);
            add("manifest_tag", &frame.manifest_tag);
            for (i, value) in frame.values.iter().enumerate() {
                add(&format!("v{i}.nonce"), &value.nonce);
                add(&format!("v{i}.aad"), &value.aad);
                add(&format!("v{i}.value"), value.plaintext.as_deref().unwrap());
                add(&format!("v{i}.tag"), &value.tag);
            }
            add("body_crc", &frame.body_crc.to_le_bytes());
            add("header_crc", &frame.header_crc.to_le_bytes());
        }
        values
    }
}

/// Section *Nonces*.
fn nonce_of(log: &Log, frame: &Frame, random: &[u8]) -> [u8; 12] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&log.header.nonce_key).unwrap();
    mac.update(&[random, &CLOCK_NS.to_le_bytes(), &frame.seq.to_le_bytes(), &frame.chain].concat());
    mac.finalize().into_bytes()[..12].try_into().unwrap()
}

fn contents_of(log: &Log) -> String {
    let mut out = String::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    if let Some((version, raw)) = log.contents.config().unwrap() {
        writeln!(out, "config: version {version}, {:?}", text(&raw)).unwrap();
    }
    for (run_id, payload) in log.contents.jobs() {
        writeln!(out, "queue: {run_id:?} with {:?}", text(&payload.unwrap())).unwrap();
    }
    if let Some((server_time_ms, id)) = log.contents.session().unwrap() {
        writeln!(out, "session: {id:?}, server time {server_time_ms}").unwrap();
    }
    if let Some(ts_ms) = log.contents.heartbeat().unwrap() {
        writeln!(out, "heartbeat: {ts_ms}").unwrap();
    }
    for (ts_ms, ordinal, payload) in log.contents.logs() {
        writeln!(out, "logs: at {ts_ms}, ordinal {ordinal}, {:?}", text(&payload.unwrap())).unwrap();
    }
    out
}

/// The generated part of the page.
pub(crate) fn render(vectors: &[Vector]) -> String {
    let mut out = String::new();
    vectors.iter().for_each(|vector| render_file(&mut out, vector));
    out += &damaged::render(vectors);
    out
}

fn render_file(out: &mut String, vector: &Vector) {
    let Vector { number, title, bytes: file, prefix, .. } = vector;
    let log = vector.log();
    write!(out, "\n### File {number}: {title}, {} bytes\n\n```text\n", file.len()).unwrap();
    for (copy, at) in [("A", 0), ("B", 2048)] {
        let mut dump = Dump { out, file, at };
        dump.fields(16, &format!("copy {copy}: magic, version, zero"));
        dump.fields(16, "flags, zero, generation");
        dump.fields(16, "store id");
        dump.fields(32, "salt");
        dump.fields(32, "authenticator");
        dump.fields(4, "CRC");
        if log.header.base.is_some() {
            let mut dump = Dump { out, file, at: at + 1024 };
            dump.fields(8, "base record: CRC, zero");
            render_position(&mut dump);
            dump.fields(16, "origin: generation, seq");
            dump.fields(16, "origin: manifest tag");
            dump.fields(32, "MAC");
        }
    }
    for (slot, at) in [("A", 4096), ("B", 6144)] {
        let mut dump = Dump { out, file, at };
        dump.fields(8, &format!("mark in slot {slot}: CRC, zero"));
        render_position(&mut dump);
    }
    for frame in &log.frames {
        render_frame(&mut Dump { out, file, at: frame.offset }, frame);
    }
    *out += "```\n\nIts contents:\n\n```text\n";
    *out += &contents_of(&log);
    for (name, position) in [("base", log.header.base), ("mark", log.header.mark)] {
        if let Some(Position { seq, end, .. }) = position {
            writeln!(out, "{name}: names frame {seq}, which ends at {end}").unwrap();
        }
    }
    *out += "```\n\nKeys and header:\n\n```text\n";
    let mut shown = String::new();
    for (name, value) in vector.values() {
        let of_frame = name[prefix.len()..].split_once('.').map(|(frame, _)| frame);
        if let Some(frame) = of_frame.filter(|frame| *frame != shown) {
            frame.clone_into(&mut shown);
            let frame = &log.frames[frame[1..].parse::<usize>().unwrap() - 1];
            writeln!(out, "```\n\nFrame {}: {}\n\n```text", frame.seq, describe(frame)).unwrap();
        }
        let mut lines = value.chunks(32).map(to_hex);
        writeln!(out, "{name:<16} = {}", lines.next().unwrap_or(EMPTY.to_owned())).unwrap();
        lines.for_each(|line| writeln!(out, "{CONTINUED}{line}").unwrap());
    }
    *out += "```\n\n";
}

fn render_position(dump: &mut Dump<'_>) {
    dump.fields(16, "seq, end");
    dump.fields(16, "manifest tag");
}

const EMPTY: &str = "(nothing)";
const CONTINUED: &str = "                   ";

fn render_frame(dump: &mut Dump<'_>, frame: &Frame) {
    dump.fields(16, &format!("frame {}: header CRC, body CRC, len, manifest length", frame.seq));
    dump.fields(16, "seq, durable_seq");
    dump.fields(16, "nonce, kind, zero");
    if frame.manifest_len > 0 {
        dump.fields(frame.manifest_len, "manifest");
    }
    dump.fields(16, "manifest: tag");
    for (i, value) in frame.values.iter().enumerate() {
        if value.len > 0 {
            dump.fields(value.len, &format!("value {i}"));
        }
        dump.fields(16, &format!("value {i}: tag"));
    }
    if frame.padding > 0 {
        dump.fields(frame.padding, "padding");
    }
}

fn describe(frame: &Frame) -> String {
    if frame.kind == 2 {
        return "close".to_owned();
    }
    let describe = |operation: &Operation| {
        let kind = ["put", "delete", "delete-through"][usize::from(operation.kind) - 1];
        let bucket = ["config", "queue", "registry", "logs", "data"][usize::from(operation.bucket) - 1];
        match String::from_utf8(operation.key.clone()) {
            Ok(key) if bucket != "logs" => format!("{kind} {bucket} `{key}`"),
            _ => format!("{kind} {bucket}"),
        }
    };
    frame.operations.iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// Writes lines of hex, a new one at each field.
struct Dump<'a> {
    out: &'a mut String,
    file: &'a [u8],
    at: usize,
}

impl Dump<'_> {
    fn fields(&mut self, len: usize, note: &str) {
        let end = self.at + len;
        let mut note = format!(" ; {note}");
        while self.at < end {
            let line = &self.file[self.at..end.min(self.at + 16)];
            let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let line_out = format!("{:08x}  {:<47}{note}", self.at, hex.join(" "));
            writeln!(self.out, "{}", line_out.trim_end()).unwrap();
            self.at += line.len();
            note.clear();
        }
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex:?} is not hex");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
