"""The bytes under which the index knows a digest: function (1), raw hash, size (8, big-endian)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest

_PACKERS = {function: struct.Struct(f">B{function.hash_length // 2}sQ").pack for function in DigestFunction}
_FUNCTIONS = {int(function): function for function in DigestFunction}
_SIZE_BYTES = 8


def key_of(digest: Digest) -> bytes:
    """Return the key of *digest*.

    Raises:
        InvalidDigest: its hash is not lower-case hexadecimal of its function's length (DIG-01). The wire has
            checked that already; here a second look is what keeps two digests from ever sharing a key.
    """
    return keys_of((digest,))[0]


def keys_of(digests: Iterable[Digest]) -> list[bytes]:
    """Return the keys of *digests*, in order; as :func:`key_of`, at a third of the price."""
    digests = list(digests)
    fromhex, packers = bytes.fromhex, _PACKERS
    try:
        keys = [packers[function](function, fromhex(text), size) for function, text, size in digests]
    except (ValueError, struct.error, KeyError):
        raise InvalidDigest("a hash that is not hexadecimal, or a size out of range") from None
    for digest, key in zip(digests, keys, strict=True):
        # fromhex skips spaces and takes capitals, and the packer fills up and cuts; only one text comes back the same.
        if key[1:-_SIZE_BYTES].hex() != digest[1]:
            raise InvalidDigest(f"{digest.hash[:200]!r} is not a {digest.function.name} hash in lower-case hexadecimal")
    return keys


def digest_of(key: bytes) -> Digest:
    """Return the digest of *key*.

    Raises:
        ValueError: it is not a key.
    """
    function = _FUNCTIONS.get(key[0]) if key else None
    if function is None or len(key) != 1 + function.hash_length // 2 + _SIZE_BYTES:
        raise ValueError(f"{key!r} is not the key of a digest")
    return Digest(function, key[1:-_SIZE_BYTES].hex(), int.from_bytes(key[-_SIZE_BYTES:], "big"))


def size_of(key: bytes) -> int:
    """Return the size of the blob that *key* names."""
    return int.from_bytes(key[-_SIZE_BYTES:], "big")
