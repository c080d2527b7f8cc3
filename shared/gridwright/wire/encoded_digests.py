"""Digests read from the bytes of a message, thousands at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from functools import cache
from itertools import repeat
from operator import itemgetter

from gridwright.blobs.packed_digests import PackedDigests, pack_parts, raw_hashes
from gridwright.digest import Digest, DigestFunction
from gridwright.wire.varint import varint, varints_in

#: A size from 0 to 2**63 - 1 takes so many bytes at most; one that is negative takes more.
_MAX_SIZE_BYTES = 9


class EncodedDigests(PackedDigests):
    """The digests in a message, each once, in their order (checklist FMB-04), and the bytes that name each of them.

    FindMissingBlobs has its digests in the same field of the question and of the answer, so it answers with
    bytes of the question. The digests are packed, or made, when a store first asks for them so.

    Args:
        hashes: one after the other, in hexadecimal.
        fields: the whole field of each digest.

    Raises:
        ValueError: a hash is not lower-case hexadecimal of the function's length (checklist DIG-01).
    """

    __slots__ = ("_by_digest", "_by_packed", "_fields", "_function", "_hashes", "_raw", "_sizes")

    def __init__(self, function: DigestFunction, hashes: bytes, sizes: Sequence[int], fields: Sequence[bytes]) -> None:
        super().__init__()
        self._function = function
        self._hashes = hashes
        self._raw = raw_hashes(hashes)
        self._sizes = sizes
        self._fields = fields
        self._by_packed: dict[bytes, bytes] | None = None
        self._by_digest: dict[Digest, bytes] | None = None

    @property
    def packed(self) -> Set[bytes]:
        return self._packed_fields().keys()

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._digest_fields())

    def __contains__(self, digest: object) -> bool:
        return digest in self._digest_fields()

    def fields_of(self, digests: Set[Digest]) -> list[bytes]:
        """Return the fields of those that are in *digests*, in the order of the message."""
        if not digests:
            return []
        if isinstance(digests, PackedDigests):
            packed = digests.packed
            return [field for one, field in self._packed_fields().items() if one in packed]
        return [field for one, field in self._digest_fields().items() if one in digests]

    def _packed_fields(self) -> dict[bytes, bytes]:
        if self._by_packed is None:
            packed = pack_parts(self._function, self._raw, self._sizes)
            self._by_packed = dict(zip(packed, self._fields, strict=True))
        return self._by_packed

    def _digest_fields(self) -> dict[Digest, bytes]:
        if self._by_digest is None:
            digits, length = self._hashes.decode(), self._function.hash_length
            hashes = [digits[at : at + length] for at in range(0, len(digits), length)]
            parts = zip(repeat(self._function, len(hashes)), hashes, self._sizes, strict=True)
            # What Digest._make does, without a Python call for each.
            self._by_digest = dict(zip(map(tuple.__new__, repeat(Digest), parts), self._fields, strict=False))
        return self._by_digest


def read_encoded_digests(encoded: bytes, field: int, function: DigestFunction) -> EncodedDigests | None:
    """Return the digests in a message, or None if anything is unusual: read it message by message then.

    0.4 µs for each digest, where a message, a Digest and its key for each took 0.9. (Numpy was no quicker
    in a service.)

    Args:
        encoded: the digests' fields, as protobuf writes them.
        field: the number of that field, up to 15.

    Returns:
        None where there is anything else in *encoded*, or a digest that is none (checklist DIG-01, DIG-03).
    """
    fields: list[bytes] = _pattern(field, function).findall(encoded)
    if sum(map(len, fields)) != len(encoded):
        return None
    if len(set(fields)) < len(fields):
        fields = list(dict.fromkeys(fields))
    start = len(_beginning(field, function, 0))
    end = start + function.hash_length
    hashes = b"".join(map(itemgetter(slice(start, end)), fields))
    # The key of the size stands before it. A size of 0 is not written, and seldom asked for.
    sizes = varints_in(b"".join(map(itemgetter(slice(end + 1, None)), fields)))
    if len(sizes) < len(fields):
        sizes = varints_in(b"".join([one[end + 1 :] or b"\0" for one in fields]))
    try:
        return EncodedDigests(function, hashes, sizes, fields)
    except ValueError:
        return None


@cache
def _pattern(field: int, function: DigestFunction) -> re.Pattern[bytes]:
    """Return what finds the digests' fields.

    The length before a digest says how many bytes its size takes, so each number of them is a case of
    its own: what matches is a whole field, whatever stands around it. The likeliest come first.
    """
    cases = []
    for size_bytes in (2, 3, 1, *range(4, _MAX_SIZE_BYTES + 1)):
        size = rb"\x10[\x80-\xff]{%d}[\x00-\x7f]" % (size_bytes - 1)
        cases.append(_case(field, function, 1 + size_bytes) + size)
    cases.append(_case(field, function, 0))  # a size of 0 is not written
    return re.compile(b"|".join(cases), re.DOTALL)


def _case(field: int, function: DigestFunction, further_bytes: int) -> bytes:
    return re.escape(_beginning(field, function, further_bytes)) + b".{%d}" % function.hash_length


def _beginning(field: int, function: DigestFunction, further_bytes: int) -> bytes:
    """Return what stands before the hash of a digest that has *further_bytes* after it."""
    hash_key = b"\n" + varint(function.hash_length)
    return bytes([field << 3 | 2]) + varint(len(hash_key) + function.hash_length + further_bytes) + hash_key
