"""The bytes of a record: header, key, payload; and the check of them.

::

    magic 4 │ CRC-32C 4 │ payload bytes 4 │ touched 4 │ kind 1 │ codec 1 │ key bytes 1 │ 0 │ key │ payload
              └ of all that follows it

Numbers are little-endian. *touched* is when the blob was last used (Unix seconds) as the
record was written: a replay gives it to the row. The payload of a LARGE record is the
id of a large file (8) and how many bytes of blob are in it (8).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

import google_crc32c

from gridwright_cas.stores.segments.disk import Buffer
from gridwright_cas.stores.segments.key import digest_of

MAGIC = b"gwR1"
HEADER_BYTES = 20
#: A blob of more stored bytes than this is a file of its own.
MAX_PAYLOAD_BYTES = 1024 * 1024
#: The longest key: SHA512.
MAX_KEY_BYTES = 73
MAX_HEAD_BYTES = HEADER_BYTES + MAX_KEY_BYTES
MAX_RECORD_BYTES = MAX_HEAD_BYTES + MAX_PAYLOAD_BYTES

_HEADER = struct.Struct("<4sIIIBBBx")
_CHECKED = struct.Struct("<IIBBBx")
_CHECKED_FROM = 8
_CRC = struct.Struct("<I")
_LARGE = struct.Struct("<QQ")
MAX_LARGE_RECORD_BYTES = MAX_HEAD_BYTES + _LARGE.size


class Kind(IntEnum):
    """What a record, or a row of the index, stands for."""

    #: The payload is the blob as stored.
    BLOB = 1
    #: The blob is a large file.
    LARGE = 2


class Codec(IntEnum):
    """How the payload is to be decoded; there is one kind yet, compression being a store above."""

    RAW = 0


_RAW = int(Codec.RAW)


class Damaged(Exception):
    """These bytes are not the record, or the block, that should be there: a finding, which no caller gets to see."""


class Record(NamedTuple):
    """A record as a replay finds it."""

    kind: Kind
    key: bytes
    touched: int
    payload: bytes
    #: Where it begins in its segment, and how long it is.
    offset: int
    size: int


class LargeFileRef(NamedTuple):
    """The payload of a LARGE record."""

    file_id: int
    stored_bytes: int


def record_size(key: bytes, payload_bytes: int) -> int:
    """Return how many bytes a record takes in a segment."""
    return HEADER_BYTES + len(key) + payload_bytes


def encode(kind: Kind, key: bytes, payload: Buffer, touched: int) -> bytes:
    """Return the header and the key of a record; its payload is to follow."""
    checked = _CHECKED.pack(len(payload), touched, kind, _RAW, len(key)) + key
    crc = google_crc32c.extend(google_crc32c.value(checked), payload)
    return MAGIC + _CRC.pack(crc) + checked


def encode_large(reference: LargeFileRef) -> bytes:
    """Return the payload of a LARGE record."""
    return _LARGE.pack(*reference)


def decode_large(payload: bytes) -> LargeFileRef:
    """Return what the payload of a LARGE record says.

    Raises:
        Damaged: it is none.
    """
    if len(payload) != _LARGE.size:
        raise Damaged("a LARGE record of another length")
    return LargeFileRef(*_LARGE.unpack(payload))


def payload_of(data: bytes, start: int, key: bytes, payload_bytes: int) -> bytes:
    """Return the payload of the BLOB record of *key* that begins at *start* in *data*.

    The bytes are read from a place that the index gave, and another process may have moved
    the record since, so key, sizes and checksum are all checked before a byte is used.

    Raises:
        Damaged: it is not that record, not whole, or rotten.
    """
    header_end = start + HEADER_BYTES
    payload_start = header_end + len(key)
    end = payload_start + payload_bytes
    if len(data) < end or data[header_end:payload_start] != key:
        raise Damaged("another record, or none")
    magic, crc, size, _, kind, codec, key_bytes = _HEADER.unpack_from(data, start)
    if magic != MAGIC or size != payload_bytes or kind != Kind.BLOB or codec != Codec.RAW or key_bytes != len(key):
        raise Damaged("a header that does not fit the index")
    if google_crc32c.value(data[start + _CHECKED_FROM : end]) != crc:
        raise Damaged("a wrong checksum")
    return data[payload_start:end]


def decode(data: bytes, start: int, segment_offset: int) -> Record | None:
    """Return the record that begins at *start* in *data*, or None if *data* ends before the record does.

    *segment_offset* is where *start* lies in the segment.

    Raises:
        Damaged: no whole record of ours begins there.
    """
    if len(data) - start < HEADER_BYTES:
        return None
    magic, crc, payload_bytes, touched, kind, codec, key_bytes = _HEADER.unpack_from(data, start)
    if magic != MAGIC or codec != Codec.RAW or payload_bytes > MAX_PAYLOAD_BYTES or key_bytes > MAX_KEY_BYTES:
        raise Damaged("no header")
    size = HEADER_BYTES + key_bytes + payload_bytes
    if len(data) - start < size:
        return None
    if google_crc32c.value(data[start + _CHECKED_FROM : start + size]) != crc:
        raise Damaged("a wrong checksum")
    key_end = start + HEADER_BYTES + key_bytes
    key = data[start + HEADER_BYTES : key_end]
    payload = data[key_end : start + size]
    try:
        digest_of(key)
        record = Record(Kind(kind), key, touched, payload, segment_offset, size)
    except ValueError:
        raise Damaged("a record of another version") from None
    if record.kind is Kind.LARGE:
        decode_large(payload)
    return record
