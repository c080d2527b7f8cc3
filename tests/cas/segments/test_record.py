"""Records, keys and rows: what goes in comes out, and what is not whole is told from what is."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest
from gridwright_cas.stores.segments.key import digest_of, key_of, keys_of, size_of
from gridwright_cas.stores.segments.record import (
    HEADER_BYTES,
    MAX_KEY_BYTES,
    Damaged,
    Kind,
    LargeFileRef,
    decode,
    decode_large,
    encode,
    encode_large,
    payload_of,
    record_size,
)
from gridwright_cas.stores.segments.row import (
    Row,
    SegmentState,
    pack_row,
    pack_segment,
    touched_before,
    unpack_row,
    unpack_segment,
)

SHA256 = DigestFunction.SHA256
PAYLOAD = os.urandom(1000)
KEY = key_of(SHA256.digest(PAYLOAD))
RECORD = encode(Kind.BLOB, KEY, PAYLOAD, 1_700_000_000) + PAYLOAD


class TestKey:
    @pytest.mark.parametrize("function", list(DigestFunction))
    def test_a_key_is_read_back_as_its_digest(self, function: DigestFunction) -> None:
        digest = function.digest(b"hello")
        assert digest_of(key_of(digest)) == digest
        assert size_of(key_of(digest)) == 5
        assert len(key_of(digest)) <= MAX_KEY_BYTES

    def test_keys_come_in_the_order_of_their_digests(self) -> None:
        digests = [function.digest(b"hello") for function in DigestFunction]
        assert keys_of(digests) == [key_of(digest) for digest in digests]

    @pytest.mark.parametrize(
        "hash_",
        [
            "",
            "ab" * 31,
            "ab" * 33,
            "AB" * 32,
            "ab" * 31 + "zz",
            "ab" * 31 + "  ",
            " " + "ab" * 32,
            "ab " * 32,
            "ab" * 31 + "a",
            "ab" * 31 + "0\0",
            "٣" * 64,
        ],
    )
    def test_what_is_no_hash_has_no_key(self, hash_: str) -> None:
        with pytest.raises(InvalidDigest):
            key_of(Digest(SHA256, hash_, 5))

    @pytest.mark.parametrize("size", [-1, 2**64])
    def test_what_is_no_size_has_no_key(self, size: int) -> None:
        with pytest.raises(InvalidDigest):
            key_of(Digest(SHA256, "ab" * 32, size))

    @pytest.mark.parametrize("key", [b"", b"\1", KEY[:-1], KEY + b"\0", b"\7" + KEY[1:]])
    def test_what_is_no_key_has_no_digest(self, key: bytes) -> None:
        with pytest.raises(ValueError, match="not a packed digest"):
            digest_of(key)


class TestRecord:
    @pytest.mark.parametrize("payload", [b"", b"x", PAYLOAD])
    @pytest.mark.parametrize("function", list(DigestFunction))
    def test_a_record_is_read_back(self, payload: bytes, function: DigestFunction) -> None:
        key = key_of(function.digest(payload))
        data = b"before" + encode(Kind.BLOB, key, payload, 17) + payload + b"behind"
        record = decode(data, 6, 106)
        assert record is not None
        assert (record.kind, record.key, record.touched, record.payload) == (Kind.BLOB, key, 17, payload)
        assert (record.offset, record.size) == (106, record_size(key, len(payload)))
        assert payload_of(data, 6, key, len(payload)) == payload

    def test_the_stored_bytes_need_not_be_as_many_as_the_digest_says(self) -> None:
        key = key_of(SHA256.digest(PAYLOAD))
        assert payload_of(encode(Kind.BLOB, key, b"frame", 0) + b"frame", 0, key, 5) == b"frame"

    def test_a_large_file_is_named_by_a_record(self) -> None:
        payload = encode_large(LargeFileRef(2**62, 2**40))
        record = decode(encode(Kind.LARGE, KEY, payload, 17) + payload, 0, 0)
        assert record is not None
        assert record.kind is Kind.LARGE
        assert decode_large(record.payload) == LargeFileRef(2**62, 2**40)
        with pytest.raises(Damaged):
            decode_large(payload[1:])

    @pytest.mark.parametrize("position", [*range(HEADER_BYTES + len(KEY) + 1), len(RECORD) // 2, len(RECORD) - 1])
    @pytest.mark.parametrize("bit", [0, 7])
    def test_a_flipped_bit_is_noticed(self, position: int, bit: int) -> None:
        flipped = bytearray(RECORD)
        flipped[position] ^= 1 << bit
        with pytest.raises(Damaged):
            payload_of(bytes(flipped), 0, KEY, len(PAYLOAD))
        with suppress(Damaged):
            assert decode(bytes(flipped), 0, 0) is None  # a longer record, of which not all is there

    @pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 5, len(RECORD) - 1])
    def test_a_record_that_is_not_all_there_is_not_served(self, length: int) -> None:
        assert decode(RECORD[:length], 0, 0) is None
        with pytest.raises(Damaged):
            payload_of(RECORD[:length], 0, KEY, len(PAYLOAD))

    def test_the_record_of_another_blob_is_not_served(self) -> None:
        with pytest.raises(Damaged):
            payload_of(RECORD, 0, key_of(SHA256.digest(b"other")), len(PAYLOAD))
        with pytest.raises(Damaged):
            payload_of(RECORD, 0, KEY, len(PAYLOAD) - 1)

    def test_zeros_are_no_record(self) -> None:
        with pytest.raises(Damaged):
            decode(bytes(4096), 0, 0)


class TestRow:
    def test_rows_are_read_back(self) -> None:
        row = Row(2**41, 2**32 - 1, 2**63, 2**40, 0)
        assert unpack_row(pack_row(row)) == row

    def test_packed_rows_compare_with_a_moment(self) -> None:
        row = pack_row(Row(1_700_000_000_123, 5, 6, 7))
        assert row < touched_before(1_700_000_000_124)
        assert not row < touched_before(1_700_000_000_123)
        assert not row < touched_before(-5)

    def test_segments_are_read_back(self) -> None:
        state = SegmentState(2**28, 2**28, 2**20, 2**41, 2**41, 0)
        assert unpack_segment(pack_segment(state)) == state
        assert state.is_open
        assert not state._replace(sealed_ms=1).is_open
