"""Digests as bytes: function (1), raw hash, size (8, big-endian)."""

from __future__ import annotations

import struct
from binascii import unhexlify
from collections.abc import Collection, Iterable, Iterator, Set
from itertools import repeat
from typing import TypeVar

from gridwright.digest import Digest, DigestFunction

_S = TypeVar("_S")

_FORMATS = {function: struct.Struct(f">B{function.hash_length // 2}sQ") for function in DigestFunction}
_FUNCTIONS = {int(function): function for function in DigestFunction}
#: So many bytes at the end of a packed digest are its size.
SIZE_BYTES = 8


class PackedDigests(Set[Digest]):
    """A set of digests of one function, each of which is kept as bytes.

    Build tools ask for thousands of blobs at a time, and to make a Digest of each, to hash it and
    to pack it again takes longer than to find it in an index. So such a question travels as
    this set. A store that looks blobs up by their packed digests answers with another one, and
    neither makes a Digest; to all others it is a set like any, whose Digests are made as it is walked.

    Args:
        packed: each of them once, as :func:`pack` makes it.
    """

    __slots__ = ("_packed",)

    def __init__(self, packed: Set[bytes] = frozenset()) -> None:
        self._packed = packed

    @property
    def packed(self) -> Set[bytes]:
        return self._packed

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[Digest]:
        return map(unpack, self.packed)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, Digest) and pack([digest])[0] in self.packed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}>"

    @classmethod
    def _from_iterable(cls, it: Iterable[_S]) -> Set[_S]:
        """Return what set operations make of it, which may be of any functions."""
        return frozenset(it)


def pack(digests: Collection[Digest]) -> list[bytes]:
    """Return each of *digests* packed, in order.

    Raises:
        ValueError: a hash is not lower-case hexadecimal of its function's length, or a size is out of range.
    """
    if not digests:
        return []
    functions, hashes, sizes = zip(*digests, strict=True)
    if len(used := set(functions)) > 1:
        return [one for digest in digests for one in pack([digest])]
    function = used.pop()
    if set(map(len, hashes)) != {function.hash_length}:
        raise ValueError(f"not a {function.name} hash in lower-case hexadecimal")
    return pack_parts(function, raw_hashes("".join(hashes).encode()), sizes)


def pack_parts(function: DigestFunction, raw: bytes, sizes: Collection[int]) -> list[bytes]:
    """Return the packed digests of *function* that have these hashes, one after the other, and *sizes*.

    Loops of C, not of Python: 0.1 µs for each digest.

    Raises:
        ValueError: a size is out of range.
    """
    try:
        hashes = struct.unpack(f"{function.hash_length // 2}s" * len(sizes), raw)
        return list(map(_FORMATS[function].pack, repeat(function), hashes, sizes))
    except struct.error:
        raise ValueError("a size out of range") from None


def raw_hashes(hashes: bytes) -> bytes:
    """Return the bytes that *hashes* say (checklist DIG-01).

    Raises:
        ValueError: they are not lower-case hexadecimal.
    """
    if hashes != hashes.lower():
        raise ValueError("a hash is not lower-case hexadecimal")
    return unhexlify(hashes)


def unpack(packed: bytes) -> Digest:
    """Return one digest.

    Raises:
        ValueError: *packed* is none.
    """
    function = _FUNCTIONS.get(packed[0]) if packed else None
    if function is None or len(packed) != _FORMATS[function].size:
        raise ValueError(f"{packed!r} is not a packed digest")
    return Digest(function, packed[1:-SIZE_BYTES].hex(), int.from_bytes(packed[-SIZE_BYTES:], "big"))
