"""Batch reader of backupy-state logs, format version 2, written from FORMAT.md alone.

Reads lines `KEYHEX<TAB>PATH` from stdin and prints one JSON object for each line. It reads as a program without
the lock, of a file that does not change. "Section" and rule names (H1, F1, G1 ...) are those of FORMAT.md.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
import re
import stat
import struct
import sys
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = bytes.fromhex("89424B50594C4F470D0A1A0A")
COPY_OFFSETS = (0, 2048)
COPY_SIZE = 116
BASE_OFFSETS = (1024, 3072)
BASE_SIZE = 104
MARK_OFFSETS = (4096, 6144)
MARK_SIZE = 40
FIRST_FRAME = 8192

FLAG_BASE = 1
REFUSED_FLAGS = 0xFFFE  # the bits 1 - 15; a reader ignores the bits 16 - 31
VERSION = 2

MAX_SEQ = 2**31
MAX_FRAME = 2**26
MAX_STORED_VALUE = 2**24 + 8
FRAME_HEADER_SIZE = 48
MIN_FRAME = 64
TAG_SIZE = 16

RECORD, CLOSE = 1, 2
PUT, DELETE, DELETE_THROUGH = 1, 2, 3
CONFIG, QUEUE, REGISTRY, LOGS, DATA = 1, 2, 3, 4, 5


# --- Section 2: conventions --------------------------------------------------------------------------------------

def salted_crc(salt: bytes, data: bytes) -> int:
    """The CRC of `salt || data`."""
    return zlib.crc32(data, zlib.crc32(salt))


def is_utf8(data: bytes) -> bool:
    """Strict UTF-8 (RFC 3629)."""
    try:
        data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return False
    return True


def hkdf_extract(salt: bytes, key: bytes) -> bytes:
    """HKDF-Extract of RFC 5869."""
    return hmac.digest(salt, key, hashlib.sha256)


def hkdf_expand(prk: bytes, info: bytes) -> bytes:
    """HKDF-Expand of RFC 5869 with L = 32, which is one block."""
    return hmac.digest(prk, info + b"\x01", hashlib.sha256)


# --- Section 4: header, positions, base record, marks ------------------------------------------------------------

@dataclass(frozen=True)
class Header:
    """The fields of the header copy that counts (section 4)."""

    flags: int
    generation: int
    store_id: bytes
    salt: bytes
    authenticator: bytes
    first_80: bytes  # header copy 0..80, for the keys of section 3

    @property
    def has_base(self) -> bool:
        return bool(self.flags & FLAG_BASE)


@dataclass(frozen=True)
class Position:
    """The position of a frame, as base records and marks hold it (section 4)."""

    seq: int
    end: int
    tag: bytes

    @property
    def possible(self) -> bool:
        return 1 <= self.seq <= MAX_SEQ and self.end % 8 == 0 and self.end >= FIRST_FRAME + 64 * self.seq


def copy_checks(copy: bytes) -> bool:
    """Whether a header copy checks: it is complete, and its magic and its CRC are right."""
    if len(copy) != COPY_SIZE or not copy.startswith(MAGIC):
        return False
    return zlib.crc32(copy[:112]) == int.from_bytes(copy[112:], "little")


def copy_is_supported(copy: bytes) -> bool:
    """Whether section 4 refuses no field of a header copy as unsupported (rule H4)."""
    version, zero_14, flags, zero_20, generation = struct.unpack_from("<HHIIQ", copy, 12)
    return version == VERSION and not zero_14 and not flags & REFUSED_FLAGS and not zero_20 and generation != 0


def parse_copy(copy: bytes) -> Header:
    """Take the fields out of a header copy."""
    flags, _, generation = struct.unpack_from("<IIQ", copy, 16)
    return Header(flags, generation, copy[32:48], copy[48:80], copy[80:112], copy[:80])


def parse_position(data: bytes) -> Position:
    """Take the fields out of the 32 bytes of a position."""
    return Position(*struct.unpack("<QQ16s", data))


def read_mark(data: bytes, salt: bytes) -> Position | None:
    """The mark: of the slots that check, the one with the greater seq, and slot A if they are equal."""
    mark: Position | None = None
    for offset in MARK_OFFSETS:
        slot = data[offset:offset + MARK_SIZE]
        crc, zero = struct.unpack_from("<II", slot)
        position = parse_position(slot[8:])
        if zero or not position.possible or crc != salted_crc(salt, slot[4:]):
            continue
        if mark is None or position.seq > mark.seq:
            mark = position
    return mark


def base_crc_is_right(record: bytes, salt: bytes) -> bool:
    """Whether the CRC of a base record is right."""
    return int.from_bytes(record[:4], "little") == salted_crc(salt, record[4:])


def read_base(data: bytes, header: Header, keys: Keys | None) -> Position | str:
    """The base, from the first good copy of the base record; without one, the rule that matches (H8 or H9)."""
    verdict = "H9"
    for offset in BASE_OFFSETS:
        record = data[offset:offset + BASE_SIZE]
        if not base_crc_is_right(record, header.salt):
            continue
        verdict = "H8"
        position = parse_position(record[8:40])
        if record[4:8] != bytes(4) or not position.possible:
            continue
        if keys is None or hmac.compare_digest(record[72:], keys.base_mac(record[8:72])):
            return position
    return verdict


# --- Sections 3 and 6: keys and seals ----------------------------------------------------------------------------

class Keys:
    """The keys that a reader derives from the agent key and the header (section 3), and the seals (section 6)."""

    def __init__(self, agent_key: bytes, header: Header) -> None:
        self._prk = hkdf_extract(header.salt, agent_key)
        self._first_80 = header.first_80
        info = b"backupy-state v2 frames" + header.store_id + struct.pack("<Q", header.generation)
        self._frame_key = hkdf_expand(self._prk, info)
        self._gcm = AESGCM(self._frame_key)

    def authenticator(self) -> bytes:
        """What the authenticator of the header has to be."""
        return hkdf_expand(self._prk, b"backupy-state v2 header" + self._first_80)

    def base_mac(self, named: bytes) -> bytes:
        """What the base MAC of a base record with this position and this origin has to be."""
        return hkdf_expand(self._prk, b"backupy-state v2 base" + self._first_80 + named)

    def open(self, nonce: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes | None:
        """The plaintext of sealed bytes, or None if they do not open."""
        try:
            return self._gcm.decrypt(nonce, ciphertext + tag, aad)
        except InvalidTag:
            return None

    def compute_tag(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
        """The tag that GCM computes for a stored ciphertext (rule G2)."""
        counter_block = nonce + b"\x00\x00\x00\x02"
        decryptor = Cipher(algorithms.AES(self._frame_key), modes.CTR(counter_block)).decryptor()
        plaintext = decryptor.update(ciphertext) + decryptor.finalize()
        return self._gcm.encrypt(nonce, plaintext, aad)[-TAG_SIZE:]


# --- Section 5: frames -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Frame:
    """The header of a frame at an offset of the file; nothing is checked yet (section 5)."""

    offset: int
    header_crc: int
    body_crc: int
    length: int
    m: int
    seq: int
    durable_seq: int
    nonce: bytes
    kind: int
    zeros: bytes

    @property
    def well_formed(self) -> bool:
        """Whether no rule of the table of section 5 refuses the bytes 8..48."""
        if self.length % 8 or not MIN_FRAME <= self.length <= MAX_FRAME or self.m > self.length - MIN_FRAME:
            return False
        if not 1 <= self.seq <= MAX_SEQ or self.durable_seq >= self.seq or self.zeros != bytes(3):
            return False
        if self.kind == CLOSE:
            return self.length == MIN_FRAME and self.m == 0 and self.durable_seq == self.seq - 1
        return self.kind == RECORD

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def tag_offset(self) -> int:
        return self.offset + FRAME_HEADER_SIZE + self.m

    @property
    def values_offset(self) -> int:
        return self.tag_offset + TAG_SIZE


@dataclass(frozen=True)
class Place:
    """P, S and C of section 11: where the next frame is expected, its seq, and its chain."""

    offset: int
    seq: int
    chain: bytes


# --- Sections 7 and 8: records, keys and values ------------------------------------------------------------------

@dataclass(frozen=True)
class Operation:
    """One operation of a manifest; value_length counts only in a put."""

    kind: int
    bucket: int
    key: bytes
    value_length: int = 0


@dataclass(frozen=True)
class Value:
    """Where and how the value of a put is sealed."""

    offset: int
    length: int
    nonce: bytes
    seq: int
    index: int


def key_is_allowed(bucket: int, key: bytes) -> bool:
    """Whether a bucket allows a key (section 8)."""
    if bucket == CONFIG:
        return key == b"current"
    if bucket == REGISTRY:
        return key in (b"session", b"heartbeat", b"dropped")
    if bucket == LOGS:
        return len(key) == 16
    return bucket in (QUEUE, DATA) and 1 <= len(key) <= 1024 and is_utf8(key)


def value_has_form(bucket: int, key: bytes, value: bytes) -> bool:
    """Whether a value has the form that section 8 asks for."""
    if bucket == CONFIG:
        return len(value) >= 8
    if bucket == REGISTRY:
        if key == b"session":
            return len(value) >= 8 and is_utf8(value[8:])
        return len(value) == 8
    return True


def parse_operation(manifest: bytes, at: int) -> tuple[Operation, int] | None:
    """The operation at an offset of a manifest and the offset after it, or None if section 7 refuses it."""
    if at + 4 > len(manifest):
        return None
    kind, bucket, key_length = struct.unpack_from("<BBH", manifest, at)
    at += 4
    key = manifest[at:at + key_length]
    at += key_length
    if kind not in (PUT, DELETE, DELETE_THROUGH) or at > len(manifest) or not key_is_allowed(bucket, key):
        return None
    if kind != PUT:
        return Operation(kind, bucket, key), at
    if at + 4 > len(manifest):
        return None
    (value_length,) = struct.unpack_from("<I", manifest, at)
    if value_length > MAX_STORED_VALUE:
        return None
    return Operation(kind, bucket, key, value_length), at + 4


def parse_manifest(manifest: bytes) -> list[Operation] | None:
    """The operations of a manifest, or None if section 7 refuses it."""
    if len(manifest) < 4:
        return None
    (count,) = struct.unpack_from("<I", manifest)
    operations: list[Operation] = []
    at = 4
    for _ in range(count):
        parsed = parse_operation(manifest, at)
        if parsed is None:
            return None
        operation, at = parsed
        operations.append(operation)
    return operations if operations and at == len(manifest) else None


def put_values(frame: Frame, operations: list[Operation]) -> Iterator[tuple[Operation, Value | None]]:
    """Each operation, and for a put where its value is sealed (sections 5 and 6)."""
    offset, index = frame.values_offset, 0
    for operation in operations:
        if operation.kind != PUT:
            yield operation, None
            continue
        last_4 = int.from_bytes(frame.nonce[8:], "big") ^ (index + 1)
        nonce = frame.nonce[:8] + last_4.to_bytes(4, "big")
        yield operation, Value(offset, operation.value_length, nonce, frame.seq, index)
        offset += operation.value_length + TAG_SIZE
        index += 1


def values_end(frame: Frame, operations: list[Operation]) -> int:
    """The offset after the last value of a frame."""
    return frame.values_offset + sum(op.value_length + TAG_SIZE for op in operations if op.kind == PUT)


Taken = tuple[Frame, list[Operation], bytes]  # a frame, its operations, and the tag that is the next chain


class Bucket:
    """A map from keys to values, with its keys in byte order (section 7). None is a value that cannot be read."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._values: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes | None) -> None:
        if key not in self._values:
            insort(self._keys, key)
        self._values[key] = value

    def delete(self, key: bytes) -> None:
        if key in self._values:
            del self._values[key]
            del self._keys[bisect_left(self._keys, key)]

    def delete_through(self, key: bytes) -> None:
        removed = bisect_right(self._keys, key)
        for old_key in self._keys[:removed]:
            del self._values[old_key]
        del self._keys[:removed]

    def as_json(self) -> dict[str, str | None]:
        pairs = ((key, self._values[key]) for key in self._keys)
        return {key.hex(): None if value is None else value.hex() for key, value in pairs}


class Contents:
    """The five buckets (sections 7 and 8)."""

    def __init__(self) -> None:
        self._buckets = {number: Bucket() for number in (CONFIG, QUEUE, REGISTRY, LOGS, DATA)}
        self.lost: set[tuple[int, bytes]] = set()  # in salvage: the keys whose last put cannot be read

    def apply(self, log: Log, frame: Frame, operations: list[Operation], salvage: bool = False) -> None:
        """Apply a record. In salvage, a put that cannot be read has no effect, and is noted."""
        for operation, sealed in put_values(frame, operations):
            bucket, named = self._buckets[operation.bucket], (operation.bucket, operation.key)
            if sealed is not None:
                value = log.open_value(sealed, operation)
                if value is None and salvage:
                    self.lost.add(named)
                    continue
                bucket.put(operation.key, value)
                self.lost.discard(named)
            elif operation.kind == DELETE:
                bucket.delete(operation.key)
                self.lost.discard(named)
            else:
                bucket.delete_through(operation.key)
                self.lost = {lost for lost in self.lost if lost[0] != named[0] or lost[1] > named[1]}

    def as_json(self) -> dict[str, dict[str, str | None]]:
        buckets = ((str(number), bucket.as_json()) for number, bucket in self._buckets.items())
        return {number: pairs for number, pairs in buckets if pairs}


# --- Section 11, "The frames": the rules F -----------------------------------------------------------------------

@dataclass
class Log:
    """The bytes of a log, with all that the rules F and G need to know of its first two pages."""

    data: bytes
    header: Header
    keys: Keys | None
    base: Position | None
    mark: Position | None
    nonzero_end: int = field(init=False)  # the offset after the last byte of the file that is not zero
    durable: int = field(init=False)  # W

    def __post_init__(self) -> None:
        self.nonzero_end = len(self.data.rstrip(b"\0"))
        self.durable = max((position.seq for position in self.named), default=0)

    @property
    def named(self) -> list[Position]:
        """The positions of the base and of the mark, if there are any."""
        return [position for position in (self.base, self.mark) if position is not None]

    @property
    def first_place(self) -> Place:
        """Where the reading of the frames begins (rule H10)."""
        return Place(FIRST_FRAME, 1, self.header.authenticator[:16])

    def frame_at(self, offset: int) -> Frame | None:
        """The frame header at an offset, or None if the file ends before the header does."""
        if offset + FRAME_HEADER_SIZE > len(self.data):
            return None
        return Frame(offset, *struct.unpack_from("<IIIIQQ12sB3s", self.data, offset))

    def header_crc_is_right(self, frame: Frame) -> bool:
        """Whether a header CRC is right; it counts as wrong where all 48 bytes are zero (section 5)."""
        raw = self.data[frame.offset:frame.offset + FRAME_HEADER_SIZE]
        return frame.header_crc == salted_crc(self.header.salt, raw[4:]) and any(raw)

    def is_plausible(self, frame: Frame) -> bool:
        return frame.well_formed and self.header_crc_is_right(frame)

    def fits(self, frame: Frame) -> bool:
        """Whether all bytes of a frame are in the file."""
        return frame.end <= len(self.data)

    def manifest_fits(self, frame: Frame) -> bool:
        """Whether the manifest of a frame, with its tag, is in the file."""
        return frame.values_offset <= len(self.data)

    def is_whole(self, frame: Frame) -> bool:
        if not self.fits(frame) or not self.is_plausible(frame):
            return False
        body = self.data[frame.offset + FRAME_HEADER_SIZE:frame.end]
        return frame.body_crc == salted_crc(self.header.salt, body)

    def tag(self, frame: Frame) -> bytes:
        """The stored manifest tag of a frame."""
        return self.data[frame.tag_offset:frame.values_offset]

    def manifest_seal(self, frame: Frame, chain: bytes) -> tuple[bytes, bytes, bytes]:
        """Nonce, ciphertext and AAD of the manifest of a frame (section 6)."""
        body = frame.offset + FRAME_HEADER_SIZE
        return frame.nonce, self.data[body:frame.tag_offset], self.data[frame.offset + 8:body] + chain

    def open_value(self, value: Value, operation: Operation) -> bytes | None:
        """The value of a put, or None if it does not open or has another form than section 8 asks for."""
        assert self.keys is not None
        end = value.offset + value.length
        ciphertext, tag = self.data[value.offset:end], self.data[end:end + TAG_SIZE]
        plaintext = self.keys.open(value.nonce, ciphertext, tag, struct.pack("<QI", value.seq, value.index))
        if plaintext is None or not value_has_form(operation.bucket, operation.key, plaintext):
            return None
        return plaintext

    def accept(self, frame: Frame, chain: bytes, tag: bytes | None = None) -> list[Operation] | None:
        """The operations of a frame whose manifest is accepted with a chain and a tag, else None (F4, G).

        The tag is the stored one unless another is given. The caller has to know that the manifest is in the file.
        """
        assert self.keys is not None
        nonce, ciphertext, aad = self.manifest_seal(frame, chain)
        plaintext = self.keys.open(nonce, ciphertext, self.tag(frame) if tag is None else tag, aad)
        if plaintext is None:
            return None
        if frame.kind == CLOSE:
            return []
        operations = parse_manifest(plaintext)
        if operations is None or values_end(frame, operations) > frame.end:
            return None
        return operations

    def padding_is_right(self, frame: Frame, operations: list[Operation]) -> bool:
        """Whether section 5 does not refuse the padding of a whole frame."""
        padding = self.data[values_end(frame, operations):frame.end]
        return len(padding) < 8 and not any(padding)

    def is_misnamed(self, frame: Frame) -> bool:
        """Whether the mark or the base has the seq of a frame, but names another one (rule F3)."""
        position = Position(frame.seq, frame.end, self.tag(frame))
        return any(named.seq == frame.seq and named != position for named in self.named)

    @cached_property
    def plausible_frames(self) -> list[Frame]:
        """Every plausible header at a multiple of 8 from the first frame on, in ascending order."""
        kinds = self.data[FIRST_FRAME + 44:len(self.data) - 3:8]
        offsets = (FIRST_FRAME + 8 * match.start() for match in re.finditer(b"[\x01\x02]", kinds))
        frames = (self.frame_at(offset) for offset in offsets)
        return [frame for frame in frames if frame is not None and self.is_plausible(frame)]

    @cached_property
    def plausible_offsets(self) -> list[int]:
        return [frame.offset for frame in self.plausible_frames]

    @cached_property
    def last_vouched(self) -> list[int]:
        """For each plausible header, the highest durable_seq in it and in those after it."""
        reverse = itertools.accumulate((frame.durable_seq for frame in reversed(self.plausible_frames)), max)
        return list(reverse)[::-1]

    @cached_property
    def plausible_by_end(self) -> dict[tuple[int, int], list[int]]:
        """The indices of the plausible headers by (end, seq), in ascending order."""
        index: dict[tuple[int, int], list[int]] = {}
        for number, frame in enumerate(self.plausible_frames):
            index.setdefault((frame.end, frame.seq), []).append(number)
        return index

    def has_witness(self, place: Place) -> bool:
        """Whether a plausible header after a place vouches for its frame."""
        after = bisect_right(self.plausible_offsets, place.offset)
        return after < len(self.last_vouched) and self.last_vouched[after] >= place.seq

    def rule_f(self, place: Place) -> tuple[str, Frame | None, list[Operation]]:
        """The first rule F that matches, and for F5 the frame and its operations (none without a key)."""
        if self.durable < place.seq and place.offset >= self.nonzero_end:
            return "F1", None, []
        frame = self.frame_at(place.offset)
        if frame is not None and self.header_crc_is_right(frame):
            if not frame.well_formed:
                return "F2", None, []
            if self.is_whole(frame):
                return self._rules_f3_to_f5(frame, place)
        return ("F6" if self.durable >= place.seq or self.has_witness(place) else "F7"), None, []

    def _rules_f3_to_f5(self, frame: Frame, place: Place) -> tuple[str, Frame | None, list[Operation]]:
        if frame.seq != place.seq or self.is_misnamed(frame):
            return "F3", None, []
        if self.keys is None:
            return "F5", frame, []
        operations = self.accept(frame, place.chain)
        if operations is None or not self.padding_is_right(frame, operations):
            return "F4", None, []
        return "F5", frame, operations

    # --- Section 11, "Reading past damage": the rules G ----------------------------------------------------------

    def rule_g1(self, place: Place) -> Taken | None:
        """G1: the frame at the place, its operations, and the tag that is the next chain."""
        frame = self._frame_for_g(place)
        operations = None if frame is None else self.accept(frame, place.chain)
        return None if frame is None or operations is None else (frame, operations, self.tag(frame))

    def rule_g2(self, place: Place) -> Taken | None:
        """G2: the same with a computed tag, which the manifest of the next frame confirms."""
        assert self.keys is not None
        frame = self._frame_for_g(place)
        following = None if frame is None else self.frame_at(frame.end)
        if frame is None or following is None:
            return None
        if not following.well_formed or following.seq != place.seq + 1 or not self.manifest_fits(following):
            return None
        tag = self.keys.compute_tag(*self.manifest_seal(frame, place.chain))
        if self.accept(following, tag) is None:
            return None
        operations = self.accept(frame, place.chain, tag)
        return None if operations is None else (frame, operations, tag)

    def _frame_for_g(self, place: Place) -> Frame | None:
        """At a place, a well-formed header with the expected seq, with all bytes of its frame in the file."""
        frame = self.frame_at(place.offset)
        if frame is None or not frame.well_formed or frame.seq != place.seq or not self.fits(frame):
            return None
        return frame

    def rule_g3(self, place: Place) -> Place | None:
        """G3: the place after the gap, if there is a frame that can be authenticated."""
        first = bisect_left(self.plausible_offsets, place.offset)
        for frame in itertools.islice(self.plausible_frames, first, None):
            at_place = frame.offset == place.offset and frame.seq == place.seq
            if frame.seq < place.seq or at_place or not self.manifest_fits(frame):
                continue
            for chain in self._chains_for_g3(place, frame):
                if self.accept(frame, chain) is not None:
                    return Place(frame.offset, frame.seq, chain)
        return None

    def _chains_for_g3(self, place: Place, frame: Frame) -> Iterator[bytes]:
        """The chains that G3 tries for the manifest of a frame."""
        yield place.chain
        damaged = self.frame_at(place.offset)
        if damaged is not None and frame.seq == place.seq + 1 and damaged.end == frame.offset:
            length_is_right = damaged.length % 8 == 0 and damaged.length <= MAX_FRAME
            if length_is_right and damaged.length >= MIN_FRAME + damaged.m:
                yield self.tag(damaged)
                return
        if frame.seq == place.seq:
            return
        numbers = self.plausible_by_end.get((frame.offset, frame.seq - 1), [])
        before = bisect_left(numbers, bisect_left(self.plausible_offsets, place.offset))
        if before < len(numbers):
            yield self.tag(self.plausible_frames[numbers[before]])


# --- Section 11, "The header": the rules H -----------------------------------------------------------------------

@dataclass
class Opened:
    """What the rules H make of a file: a rule that refused it, or a log."""

    rule: str
    log: Log | None = None


def not_a_store(path: str) -> str | None:
    """The rules H1 and H2."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "H1"
    return None if stat.S_ISREG(mode) else "H2"


def header_copies(data: bytes) -> list[bytes]:
    return [data[offset:offset + COPY_SIZE] for offset in COPY_OFFSETS]


def choose_header(data: bytes) -> Header | str:
    """The header by the rules H3 - H6, or the rule that refuses the file."""
    copies = header_copies(data)
    if not any(copy.startswith(MAGIC) for copy in copies):
        return "H3"
    checked = next((copy for copy in copies if copy_checks(copy)), None)
    if checked is not None and not copy_is_supported(checked):
        return "H4"
    if len(data) < FIRST_FRAME:
        return "H5"
    return "H6" if checked is None else parse_copy(checked)


def combine_header(data: bytes, agent_key: bytes) -> Header | None:
    """The header that both damaged copies make together, if one has the right authenticator (section 11)."""
    copy_a, copy_b = header_copies(data)
    spans = ((24, 32), (32, 48), (48, 80), (80, 112))
    parts = [(copy_a[start:end], copy_b[start:end]) for start, end in spans]
    for flags, generation, store_id, salt, authenticator in itertools.product((0, FLAG_BASE), *parts):
        fixed = MAGIC + struct.pack("<HHII", VERSION, 0, flags, 0)
        header = parse_copy(fixed + generation + store_id + salt + authenticator)
        if hmac.compare_digest(Keys(agent_key, header).authenticator(), authenticator):
            return header
    return None


def open_log(data: bytes, header: Header, keys: Keys | None, ignore_base_fault: bool = False) -> Opened:
    """The rules H8 - H10 with a header that is right."""
    base = read_base(data, header, keys) if header.has_base else None
    if isinstance(base, str):
        if not ignore_base_fault:
            return Opened(base)
        return Opened(base, Log(data, header, keys, None, read_mark(data, header.salt)))
    return Opened("H10", Log(data, header, keys, base, read_mark(data, header.salt)))


def open_with(data: bytes, agent_key: bytes | None) -> Opened:
    """The rules H3 - H10, with or without the agent key."""
    header = choose_header(data)
    if isinstance(header, str):
        return Opened(header)
    keys = None if agent_key is None else Keys(agent_key, header)
    if keys is not None and not hmac.compare_digest(keys.authenticator(), header.authenticator):
        return Opened("H7")
    return open_log(data, header, keys)


# --- The three readings ------------------------------------------------------------------------------------------

def refusal(rule: str) -> dict[str, Any]:
    """The result of a rule H that refused the file."""
    return {"row": rule, "offset": 1024 if rule == "H8" else 0, "end": 0, "torn_until": None, "frames": []}


def end_rule(log: Log, rule: str, last: Frame | None) -> str:
    """Section 11, "The end": E1 - E3 after F1 or F7, without what a writer does."""
    if rule == "F7":
        return "E3"
    if last is None or last.kind != CLOSE or log.mark is None:
        return "E2"
    return "E1" if log.mark == Position(last.seq, last.end, log.tag(last)) else "E2"


def read_frames(log: Log, apply: Callable[[Frame, list[Operation]], object]) -> dict[str, Any]:
    """Read a log by the rules F, up to the first refusal or to its end."""
    frames: list[Frame] = []
    place = log.first_place
    while True:
        rule, frame, operations = log.rule_f(place)
        if frame is None:
            break
        frames.append(frame)
        apply(frame, operations)
        place = Place(frame.end, place.seq + 1, log.tag(frame))
    at_end = rule in ("F1", "F7")
    return {
        "row": end_rule(log, rule, frames[-1] if frames else None) if at_end else rule,
        "offset": 0 if at_end else place.offset,
        "end": place.offset,
        "torn_until": log.nonzero_end if rule == "F7" else None,
        "frames": [[frame.offset, frame.length, frame.seq, frame.durable_seq, frame.kind] for frame in frames],
    }


def read_with_key(opened: Opened) -> dict[str, Any]:
    """The reading that stops at the first damage or tampering."""
    if opened.log is None:
        return refusal(opened.rule) | {"contents": {}}
    log, contents = opened.log, Contents()
    result = read_frames(log, lambda frame, operations: contents.apply(log, frame, operations))
    return result | {"contents": contents.as_json()}


def read_keyless(opened: Opened) -> dict[str, Any]:
    """The same as far as a program without the key can go."""
    if opened.log is None:
        return refusal(opened.rule)
    return read_frames(opened.log, lambda frame, operations: None)


def open_for_salvage(data: bytes, agent_key: bytes) -> Opened:
    """The rules H for salvage: with a header from both copies after H6, and without a base after H8 and H9."""
    opened = open_with(data, agent_key)
    if opened.rule == "H6":
        header: Header | str | None = combine_header(data, agent_key)
    else:
        header = choose_header(data)
    if not isinstance(header, Header) or opened.rule not in ("H6", "H8", "H9"):
        return opened
    return open_log(data, header, Keys(agent_key, header), ignore_base_fault=True)


@dataclass
class Salvage:
    """A reading past damage by the rules F and G (section 11, "Reading past damage" and "Salvage")."""

    log: Log
    place: Place
    complete: bool
    contents: Contents = field(default_factory=Contents)
    gaps: list[list[int | None]] = field(default_factory=list)

    def run(self) -> None:
        """Apply the rules F and then G at each place, until one of them ends the reading."""
        while True:
            rule, frame, operations = self.log.rule_f(self.place)
            if rule in ("F1", "F7"):
                return
            if frame is not None:
                self._take((frame, operations, self.log.tag(frame)))
            elif not self._go_past_damage():
                return

    def _go_past_damage(self) -> bool:
        """Apply the rules G at the place; False if everything from there on is lost (G4)."""
        taken = self.log.rule_g1(self.place) or self.log.rule_g2(self.place)
        if taken is not None:
            self._take(taken)
            return True
        after_gap = self.log.rule_g3(self.place)
        last_lost = None if after_gap is None else after_gap.seq - 1
        self.gaps.append([self.place.offset, self.place.seq, last_lost])
        if after_gap is None:
            self.complete = False
            return False
        self.complete &= after_gap.seq == self.place.seq
        self.place = after_gap
        return True

    def _take(self, taken: Taken) -> None:
        frame, operations, tag = taken
        self.contents.apply(self.log, frame, operations, salvage=True)
        self.place = Place(frame.end, self.place.seq + 1, tag)

    def as_json(self) -> dict[str, Any]:
        complete = self.complete and not self.contents.lost
        return {"contents": self.contents.as_json(), "complete": complete, "gaps": self.gaps}


def salvage(data: bytes, agent_key: bytes) -> dict[str, Any] | None:
    """What can be read of a file past its damage, or None if nothing can be read."""
    opened = open_for_salvage(data, agent_key)
    if opened.log is None:
        return None
    base_is_right = opened.rule == "H10"  # without its base, a log can lack frames at its end
    result = Salvage(opened.log, opened.log.first_place, complete=base_is_right)
    result.run()
    return result.as_json()


def read_file(path: str, agent_key: bytes) -> dict[str, Any]:
    """All three readings of one file."""
    rule = not_a_store(path)
    if rule is not None:
        opened = keyless = Opened(rule)
        salvaged = None
    else:
        with open(path, "rb") as file:
            data = file.read()
        opened, keyless = open_with(data, agent_key), open_with(data, None)
        salvaged = salvage(data, agent_key)
    return {"path": path, "read": read_with_key(opened), "keyless": read_keyless(keyless), "salvage": salvaged}


def answer(line: str) -> dict[str, Any]:
    """The answer to one line of the input. An I/O error is no verdict (section 11), nor is a malformed line."""
    key_hex, _, path = line.partition("\t")
    try:
        return read_file(path, bytes.fromhex(key_hex))
    except (OSError, ValueError, MemoryError) as error:
        return {"path": path, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    sys.stdin.reconfigure(errors="surrogateescape", newline="\n")  # type: ignore[union-attr]
    for line in sys.stdin:
        print(json.dumps(answer(line.removesuffix("\n"))), flush=True)


if __name__ == "__main__":
    main()
