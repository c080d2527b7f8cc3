"""What names a blob: a digest function, a hash and a size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple, Protocol

from blake3 import blake3

#: Sizes travel as int64.
MAX_SIZE_BYTES = 2**63 - 1


class Hasher(Protocol):
    """An incremental hash, as hashlib has them."""

    def update(self, data: bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


class DigestFunction(IntEnum):
    """The digest functions that Gridwright can compute; values are those of REAPI's enum."""

    SHA256 = 1
    SHA1 = 2
    MD5 = 3
    SHA384 = 5
    SHA512 = 6
    BLAKE3 = 9

    @property
    def hash_length(self) -> int:
        """Length of a hash in hexadecimal digits."""
        return _HASH_LENGTHS[self]

    def new(self) -> Hasher:
        """Begin a hash."""
        return _HASHERS[self]()

    def digest(self, data: bytes) -> Digest:
        """Return the digest of *data*."""
        return Digest(self, _HASHERS[self](data).hexdigest(), len(data))

    @property
    def empty(self) -> Digest:
        """The digest of the empty blob, which every CAS holds always (checklist LIF-05)."""
        return _EMPTY[self]


class Digest(NamedTuple):
    """The key of a blob.

    The three parts together are the identity: the same hash with another size is another
    blob (checklist DIG-02), and so are the same bytes under another function (DIG-18).
    ``wire.digests`` checks each part as it comes in, so code that holds a Digest need not.
    """

    function: DigestFunction
    #: Lower-case hexadecimal, exactly ``function.hash_length`` digits.
    hash: str
    size_bytes: int

    @classmethod
    def checked(cls, function: DigestFunction, hash_: str, size_bytes: int) -> Digest:
        """Return the digest of these parts, which came from elsewhere (checklist DIG-01, DIG-03, DIG-08).

        Raises:
            ValueError: saying which of them cannot be.
        """
        if len(hash_) != function.hash_length:
            raise ValueError(f"a {function.name} hash has {function.hash_length} characters, not {len(hash_)}")
        if hash_.strip("0123456789abcdef"):
            raise ValueError(f"hash {hash_!r} is not lower-case hexadecimal")
        if not 0 <= size_bytes <= MAX_SIZE_BYTES:
            raise ValueError(f"size {size_bytes} is out of range")
        return cls(function, hash_, size_bytes)

    def __str__(self) -> str:
        prefix = "" if self.function is not DigestFunction.BLAKE3 else "blake3/"
        return f"{prefix}{self.hash}/{self.size_bytes}"


_HASH_LENGTHS = {
    DigestFunction.SHA256: 64,
    DigestFunction.SHA1: 40,
    DigestFunction.MD5: 32,
    DigestFunction.SHA384: 96,
    DigestFunction.SHA512: 128,
    DigestFunction.BLAKE3: 64,
}

#: Constructors, which begin with the data that they are given.
_HASHERS: dict[DigestFunction, Callable[..., Hasher]] = {
    DigestFunction.SHA256: partial(hashlib.sha256, usedforsecurity=False),
    DigestFunction.SHA1: partial(hashlib.sha1, usedforsecurity=False),
    DigestFunction.MD5: partial(hashlib.md5, usedforsecurity=False),
    DigestFunction.SHA384: partial(hashlib.sha384, usedforsecurity=False),
    DigestFunction.SHA512: partial(hashlib.sha512, usedforsecurity=False),
    DigestFunction.BLAKE3: blake3,
}

_EMPTY = {function: function.digest(b"") for function in DigestFunction}
