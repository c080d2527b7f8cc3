"""The bytes under which the index knows a digest: function (1), raw hash, size (8, big-endian)."""

from __future__ import annotations

import struct
from collections.abc import Collection

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest

_PACKERS = {function: struct.Struct(f">B{function.hash_length // 2}sQ").pack for function in DigestFunction}
_FUNCTIONS = {int(function): function for function in DigestFunction}
_SIZE_BYTES = 8
_HEXADECIMAL = b"0123456789abcdef"


def key_of(digest: Digest) -> bytes:
    """Return the key of *digest*.

    Raises:
        InvalidDigest: its hash is not lower-case hexadecimal of its function's length (DIG-01). The wire has
            checked that already; here a second look is what keeps two digests from ever sharing a key.
    """
    return keys_of((digest,))[0]


def keys_of(digests: Collection[Digest]) -> list[bytes]:
    """Return the keys of *digests*, in order; as :func:`key_of`, at a fraction of the price for many at once.

    Raises:
        InvalidDigest: as :func:`key_of`.
    """
    if not digests:
        return []
    functions, hashes, sizes = zip(*digests, strict=True)
    used = set(functions)
    if len(used) > 1:
        return [keys_of((digest,))[0] for digest in digests]
    function = used.pop()
    if set(map(len, hashes)) != {function.hash_length} or "".join(hashes).encode().translate(None, _HEXADECIMAL):
        raise InvalidDigest(f"not a {function.name} hash in lower-case hexadecimal")
    try:
        # Loops of C, not of Python: this is the dearest part of a question about thousands of blobs.
        return list(map(_PACKERS[function], functions, map(bytes.fromhex, hashes), sizes))
    except struct.error:
        raise InvalidDigest("a size out of range") from None


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
