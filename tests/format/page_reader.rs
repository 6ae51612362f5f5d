//! A reader of the log written from FORMAT.md alone: nothing here comes from the crate under test.
//!
//! It keeps every intermediate value and names the row of the decision tables that it took. It shares no code with
//! the models of `tests/model` either: a mistake in one must not hide the same mistake in the other.

use std::collections::BTreeMap;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;

/// A file that was read up to its end. Section *Opening*.
pub(crate) struct Log {
    pub(crate) header: Header,
    pub(crate) frames: Vec<Frame>,
    pub(crate) contents: Contents,
    /// The row of the last table.
    pub(crate) row: &'static str,
    /// Behind the last whole frame.
    pub(crate) end: usize,
    /// Behind the last byte of a torn tail.
    pub(crate) torn_until: Option<usize>,
}

/// Why a file is refused, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) row: &'static str,
    pub(crate) offset: usize,
}

pub(crate) struct Header {
    pub(crate) copy: [u8; 116],
    pub(crate) generation: u64,
    pub(crate) store_id: [u8; 16],
    pub(crate) salt: [u8; 32],
    pub(crate) prk: [u8; 32],
    pub(crate) authenticator: [u8; 32],
    pub(crate) frame_key: [u8; 32],
    pub(crate) nonce_key: [u8; 32],
    pub(crate) base: Option<Position>,
    pub(crate) mark: Option<Position>,
}

/// What a mark or a base record names. Section *Positions*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    pub(crate) end: u64,
    pub(crate) tag: [u8; 16],
    /// Where its slot or its copy is, and the MAC of a base record.
    pub(crate) offset: usize,
    pub(crate) mac: Option<[u8; 32]>,
}

pub(crate) struct Frame {
    pub(crate) offset: usize,
    pub(crate) header_crc: u32,
    pub(crate) body_crc: u32,
    pub(crate) len: usize,
    pub(crate) manifest_len: usize,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) nonce: [u8; 12],
    pub(crate) kind: u8,
    pub(crate) chain: [u8; 16],
    pub(crate) manifest_aad: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_tag: [u8; 16],
    pub(crate) operations: Vec<Operation>,
    pub(crate) values: Vec<Value>,
    pub(crate) padding: usize,
}

pub(crate) struct Operation {
    pub(crate) kind: u8,
    pub(crate) bucket: u8,
    pub(crate) key: Vec<u8>,
    pub(crate) value_len: Option<usize>,
}

pub(crate) struct Value {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) nonce: [u8; 12],
    pub(crate) aad: Vec<u8>,
    /// `None` where the seal does not fit.
    pub(crate) plaintext: Option<Vec<u8>>,
    pub(crate) tag: [u8; 16],
}

/// What is live, by bucket and key. Section *Buckets and their keys*.
#[derive(Default)]
pub(crate) struct Contents(BTreeMap<u8, BTreeMap<Vec<u8>, Live>>);

/// Its seal does not fit, or it is not as its bucket's values are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadValue;

struct Live {
    put: (u64, usize),
    value: Option<Vec<u8>>,
}

pub(crate) fn read(file: &[u8], agent_key: &[u8]) -> Result<Log, Refusal> {
    let header = read_header(file, agent_key)?;
    let cipher = Aes256Gcm::new((&header.frame_key).into());
    let salt = header.salt;
    let named = [header.mark, header.base];
    let proven = named.iter().flatten().map(|position| position.seq).max().unwrap_or(0);
    let mut chain: [u8; 16] = array(&header.authenticator, 0);
    let mut expected = 1;
    let mut log =
        Log { header, frames: Vec::new(), contents: Contents::default(), row: "", end: 8192, torn_until: None };
    loop {
        let at = log.end;
        let rest = &file[at..];
        if proven < expected && rest.iter().all(|&byte| byte == 0) {
            let last = log.frames.last().filter(|frame| frame.kind == 2);
            let is_marked = last.is_some_and(|last| log.header.mark.is_some_and(|mark| mark.seq == last.seq));
            log.row = if is_marked { "E1" } else { "E2" };
            return Ok(log);
        }
        let refuse = |row| Refusal { row, offset: at };
        if let Some(header) = header_whose_crc_is_right(rest, &salt) {
            if !is_plausible(header) {
                return Err(refuse("F2"));
            }
            let len = u32_at(header, 8) as usize;
            if len <= rest.len() && crc32(&[&salt, &rest[48..len]]) == u32_at(header, 4) {
                let tag_at = 48 + u32_at(header, 12) as usize;
                let is_named =
                    |named: Position| (named.end, named.tag) == ((at + len) as u64, array(rest, tag_at));
                let is_another = |named: &Position| named.seq == expected && !is_named(*named);
                if u64_at(header, 16) != expected || named.iter().flatten().any(is_another) {
                    return Err(refuse("F3"));
                }
                let frame = open_frame(at, &rest[..len], &chain, &cipher).ok_or(refuse("F4"))?;
                log.contents.apply(&frame);
                log.end += len;
                expected += 1;
                chain = frame.manifest_tag;
                log.frames.push(frame);
                continue;
            }
        }
        let vouches = |at: usize| {
            let header = header_whose_crc_is_right(&rest[at..], &salt).filter(|header| is_plausible(header));
            header.is_some_and(|header| u64_at(header, 16) > expected && u64_at(header, 24) >= expected)
        };
        if proven >= expected || (8..rest.len()).step_by(8).any(vouches) {
            return Err(refuse("F6"));
        }
        log.row = "E3";
        log.torn_until = rest.iter().rposition(|&byte| byte != 0).map(|last| at + last + 1);
        return Ok(log);
    }
}

/// Section *Header*, and the first table of *Opening*.
fn read_header(file: &[u8], agent_key: &[u8]) -> Result<Header, Refusal> {
    let refuse = |row| Refusal { row, offset: 0 };
    let has_magic = |at: usize| file[at.min(file.len())..].starts_with(b"\x89BKPYLOG\r\n\x1a\n");
    if !has_magic(0) && !has_magic(2048) {
        return Err(refuse("H3"));
    }
    let checks = |at: usize| {
        let copy = file.get(at..at + 116);
        copy.is_some_and(|copy| has_magic(at) && crc32(&[&copy[..112]]) == u32_at(copy, 112))
    };
    let found = [0, 2048].into_iter().find(|&at| checks(at));
    if let Some(at) = found {
        let is_zero = |range: std::ops::Range<usize>| file[at..][range].iter().all(|&byte| byte == 0);
        // For a writer: of the flags, only bit 0 is known.
        let is_known = u32_at(file, at + 16) & !1 == 0;
        let version = u16::from_le_bytes(array(file, at + 12));
        if version != 2 || !is_known || !is_zero(14..16) || !is_zero(20..24) || is_zero(24..32) {
            return Err(refuse("H4"));
        }
    }
    if file.len() < 8192 {
        return Err(refuse("H5"));
    }
    let copy: [u8; 116] = array(file, found.ok_or(refuse("H6"))?);
    let generation = u64_at(&copy, 24);
    let (store_id, salt): ([u8; 16], [u8; 32]) = (array(&copy, 32), array(&copy, 48));
    let (prk, hkdf) = Hkdf::<Sha256>::extract(Some(&salt), agent_key);
    let expand = |info: &[u8]| {
        let mut out = [0; 32];
        hkdf.expand(info, &mut out).unwrap();
        out
    };
    let authenticator = expand(&[b"backupy-state v2 header", &copy[..80]].concat());
    if authenticator != copy[80..112] {
        return Err(refuse("H7"));
    }
    let key_of = |label: &[u8]| expand(&[label, &store_id, &generation.to_le_bytes()].concat());
    let (frame_key, nonce_key) = (key_of(b"backupy-state v2 frames"), key_of(b"backupy-state v2 nonces"));
    let has_base = copy[16] & 1 == 1;
    let mac_of = |position: &[u8]| expand(&[&b"backupy-state v2 base"[..], &copy[..80], position].concat());
    let has_right_crc = |at: usize| crc32(&[&salt, &file[at + 4..at + 104]]) == u32_at(file, at);
    let good = |at: usize| {
        let position = position(file, at, 104, &salt)?;
        let mac: [u8; 32] = array(file, at + 72);
        (mac == mac_of(&file[at + 8..at + 72])).then_some(Position { mac: Some(mac), ..position })
    };
    let base = if has_base { [1024, 3072].into_iter().find_map(good) } else { None };
    if has_base && base.is_none() {
        let has_right_crc = [1024, 3072].into_iter().any(has_right_crc);
        return Err(if has_right_crc { Refusal { row: "H8", offset: 1024 } } else { refuse("H9") });
    }
    let slots = [4096, 6144].map(|at| position(file, at, 40, &salt));
    // Of two with the same seq, the first.
    let mark = slots.into_iter().flatten().reduce(|a, b| if b.seq > a.seq { b } else { a });
    Ok(Header {
        copy,
        generation,
        store_id,
        salt,
        prk: prk.into(),
        authenticator,
        frame_key,
        nonce_key,
        base,
        mark,
    })
}

/// Sections *Mark page* and *Base record*: what a slot or a copy of `len` bytes names.
fn position(file: &[u8], at: usize, len: usize, salt: &[u8; 32]) -> Option<Position> {
    let (seq, end) = (u64_at(file, at + 8), u64_at(file, at + 16));
    let checks = crc32(&[salt, &file[at + 4..at + len]]) == u32_at(file, at) && u32_at(file, at + 4) == 0;
    let is_possible = (1..=1 << 31).contains(&seq) && end % 8 == 0 && end >= 8192 + 64 * seq;
    let tag = array(file, at + 24);
    (checks && is_possible).then_some(Position { seq, end, tag, offset: at, mac: None })
}

/// Section *Frame*.
fn header_whose_crc_is_right<'a>(bytes: &'a [u8], salt: &[u8; 32]) -> Option<&'a [u8]> {
    let header = bytes.get(..48)?;
    let right = *header != [0; 48] && crc32(&[salt, &header[4..]]) == u32_at(header, 0);
    right.then_some(header)
}

fn is_plausible(header: &[u8]) -> bool {
    let (len, manifest_len) = (u32_at(header, 8), u32_at(header, 12));
    let (seq, durable_seq) = (u64_at(header, 16), u64_at(header, 24));
    let fits = len % 8 == 0 && (64..=1 << 26).contains(&len) && manifest_len <= len - 64;
    let numbered = (1..=1 << 31).contains(&seq) && durable_seq < seq;
    let kind = match header[44] {
        1 => true,
        2 => len == 64 && manifest_len == 0 && seq.checked_sub(1) == Some(durable_seq),
        _ => false,
    };
    fits && numbered && kind && header[45..48] == [0; 3]
}

/// Section *Sealing*. `None` where the frame is not what its writer sealed.
fn open_frame(offset: usize, frame: &[u8], chain: &[u8; 16], cipher: &Aes256Gcm) -> Option<Frame> {
    let manifest_len = u32_at(frame, 12) as usize;
    let seq = u64_at(frame, 16);
    let nonce: [u8; 12] = array(frame, 32);
    let manifest_aad = [&frame[8..48], chain].concat();
    let sealed = &frame[48..48 + manifest_len + 16];
    let manifest = open(cipher, &nonce, &manifest_aad, sealed)?;
    let operations = if frame[44] == 2 { Vec::new() } else { parse_manifest(&manifest)? };

    let mut values = Vec::new();
    let mut at = 48 + sealed.len();
    for len in operations.iter().filter_map(|operation| operation.value_len) {
        let i = values.len() as u32;
        let sealed = frame.get(at..at + len + 16)?;
        let mut value_nonce = nonce;
        value_nonce[8..].iter_mut().zip((i + 1).to_be_bytes()).for_each(|(byte, mask)| *byte ^= mask);
        let aad = [&seq.to_le_bytes()[..], &i.to_le_bytes()].concat();
        let plaintext = open(cipher, &value_nonce, &aad, sealed);
        values.push(Value {
            offset: offset + at,
            len,
            nonce: value_nonce,
            aad,
            plaintext,
            tag: array(sealed, len),
        });
        at += sealed.len();
    }
    let padding = &frame[at..];
    if padding.len() >= 8 || padding.iter().any(|&byte| byte != 0) {
        return None;
    }
    Some(Frame {
        offset,
        header_crc: u32_at(frame, 0),
        body_crc: u32_at(frame, 4),
        len: frame.len(),
        manifest_len,
        seq,
        durable_seq: u64_at(frame, 24),
        nonce,
        kind: frame[44],
        chain: *chain,
        manifest_aad,
        manifest_tag: array(sealed, manifest_len),
        manifest,
        operations,
        values,
        padding: padding.len(),
    })
}

fn open(cipher: &Aes256Gcm, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad }).ok()
}

/// Section *Records*.
fn parse_manifest(manifest: &[u8]) -> Option<Vec<Operation>> {
    let (count, mut rest) = manifest.split_at_checked(4)?;
    let count = u32_at(count, 0);
    let mut operations = Vec::new();
    for _ in 0..count {
        let (head, behind) = rest.split_at_checked(4)?;
        let (kind, bucket) = (head[0], head[1]);
        let (key, behind) = behind.split_at_checked(u16::from_le_bytes(array(head, 2)).into())?;
        let allowed = match bucket {
            1 => key == b"current",
            2 | 5 => (1..=1024).contains(&key.len()) && std::str::from_utf8(key).is_ok(),
            3 => [&b"session"[..], b"heartbeat", b"dropped"].contains(&key),
            4 => key.len() == 16,
            _ => false,
        };
        if !allowed || !(1..=3).contains(&kind) {
            return None;
        }
        rest = behind;
        let mut value_len = None;
        if kind == 1 {
            let (len, behind) = rest.split_at_checked(4)?;
            value_len = Some(u32_at(len, 0) as usize);
            rest = behind;
        }
        if value_len > Some((1 << 24) + 8) {
            return None;
        }
        operations.push(Operation { kind, bucket, key: key.to_vec(), value_len });
    }
    (count > 0 && rest.is_empty()).then_some(operations)
}

impl Contents {
    fn apply(&mut self, frame: &Frame) {
        let mut values = frame.values.iter().enumerate();
        for Operation { kind, bucket, key, .. } in &frame.operations {
            let bucket = self.0.entry(*bucket).or_default();
            match kind {
                1 => {
                    let (i, value) = values.next().unwrap();
                    bucket.insert(key.clone(), Live { put: (frame.seq, i), value: value.plaintext.clone() });
                }
                2 => drop(bucket.remove(key)),
                _ => bucket.retain(|live, _| live > key),
            }
        }
    }

    fn value(&self, bucket: u8, key: &[u8]) -> Result<Option<&[u8]>, BadValue> {
        let Some(live) = self.0.get(&bucket).and_then(|bucket| bucket.get(key)) else { return Ok(None) };
        live.value.as_deref().map(Some).ok_or(BadValue)
    }

    /// The live values by bucket and key; `None` where one does not open or is not as its bucket's values are.
    #[allow(dead_code, reason = "only the comparison with the reader in Python needs it")]
    pub(crate) fn readable(&self) -> BTreeMap<u8, BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        let has_form = |bucket: u8, key: &[u8], value: &[u8]| match bucket {
            1 => value.len() >= 8,
            3 if key == b"session" => value.get(8..).is_some_and(|id| std::str::from_utf8(id).is_ok()),
            3 => value.len() == 8,
            _ => true,
        };
        let buckets = self.0.iter().filter(|(_, values)| !values.is_empty());
        let readable = |bucket: u8, (key, live): (&Vec<u8>, &Live)| {
            (key.clone(), live.value.clone().filter(|value| has_form(bucket, key, value)))
        };
        buckets
            .map(|(&bucket, values)| (bucket, values.iter().map(|value| readable(bucket, value)).collect()))
            .collect()
    }

    fn all(&self, bucket: u8) -> impl Iterator<Item = (&[u8], &Live)> {
        self.0.get(&bucket).into_iter().flatten().map(|(key, live)| (&key[..], live))
    }

    pub(crate) fn config(&self) -> Result<Option<(u64, Vec<u8>)>, BadValue> {
        let Some(value) = self.value(1, b"current")? else { return Ok(None) };
        let (version, raw) = value.split_first_chunk().ok_or(BadValue)?;
        Ok(Some((u64::from_le_bytes(*version), raw.to_vec())))
    }

    /// In byte order of the run ids. A payload whose seal does not fit is `None`.
    pub(crate) fn jobs(&self) -> Vec<(String, Option<Vec<u8>>)> {
        self.texts(2)
    }

    /// In byte order of the keys. A value whose seal does not fit is `None`.
    pub(crate) fn data(&self) -> Vec<(String, Option<Vec<u8>>)> {
        self.texts(5)
    }

    fn texts(&self, bucket: u8) -> Vec<(String, Option<Vec<u8>>)> {
        let text = |(key, live): (&[u8], &Live)| (String::from_utf8(key.to_vec()).unwrap(), live.value.clone());
        self.all(bucket).map(text).collect()
    }

    pub(crate) fn run_ids_by_latest_enqueue(&self) -> Vec<String> {
        let mut jobs: Vec<_> = self.all(2).map(|(key, live)| (live.put, key.to_vec())).collect();
        jobs.sort();
        jobs.into_iter().map(|(_, key)| String::from_utf8(key).unwrap()).collect()
    }

    pub(crate) fn session(&self) -> Result<Option<(i64, String)>, BadValue> {
        let Some(value) = self.value(3, b"session")? else { return Ok(None) };
        let (time, id) = value.split_first_chunk().ok_or(BadValue)?;
        let id = String::from_utf8(id.to_vec()).map_err(|_| BadValue)?;
        Ok(Some((i64::from_le_bytes(*time), id)))
    }

    pub(crate) fn heartbeat(&self) -> Result<Option<i64>, BadValue> {
        let Some(value) = self.value(3, b"heartbeat")? else { return Ok(None) };
        Ok(Some(i64::from_le_bytes(value.try_into().map_err(|_| BadValue)?)))
    }

    pub(crate) fn dropped(&self) -> Result<u64, BadValue> {
        let Some(value) = self.value(3, b"dropped")? else { return Ok(0) };
        Ok(u64::from_le_bytes(value.try_into().map_err(|_| BadValue)?))
    }

    /// In drain order. A payload whose seal does not fit is `None`.
    pub(crate) fn logs(&self) -> Vec<(i64, u64, Option<Vec<u8>>)> {
        let event = |(key, live): (&[u8], &Live)| {
            let ts_ms = (u64::from_be_bytes(array(key, 0)) ^ (1 << 63)).cast_signed();
            (ts_ms, u64::from_be_bytes(array(key, 8)), live.value.clone())
        };
        self.all(4).map(event).collect()
    }
}

/// Section *Conventions*: poly 0x04C11DB7, init 0xFFFFFFFF, refin, refout, xorout 0xFFFFFFFF. Reflected input and
/// output turn the polynomial around instead of every byte.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    let mut register = 0xFFFF_FFFF;
    for &byte in parts.iter().copied().flatten() {
        register ^= u32::from(byte);
        for _ in 0..8 {
            let reflected_poly = 0x04C1_1DB7_u32.reverse_bits();
            register = (register >> 1) ^ if register & 1 == 1 { reflected_poly } else { 0 };
        }
    }
    register ^ 0xFFFF_FFFF
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
