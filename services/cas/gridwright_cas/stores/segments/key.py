"""The bytes under which the index knows a digest: those of a packed one."""

from __future__ import annotations

from collections.abc import Collection

from gridwright.blobs.packed_digests import SIZE_BYTES, PackedDigests, pack, unpack
from gridwright.digest import Digest
from gridwright.errors import InvalidDigest

#: ``digest_of(key)`` raises ValueError for what is no key.
digest_of = unpack


def key_of(digest: Digest) -> bytes:
    """Return the key of *digest*.

    Raises:
        InvalidDigest: its hash is not lower-case hexadecimal of its function's length (DIG-01), or its size is
            out of range. The wire has checked that already; here a second look is what keeps two digests from
            ever sharing a key.
    """
    return keys_of((digest,))[0]


def keys_of(digests: Collection[Digest]) -> list[bytes]:
    """Return the keys of *digests*, in order; as :func:`key_of`, at a fraction of the price for many at once.

    Raises:
        InvalidDigest: as :func:`key_of`.
    """
    if isinstance(digests, PackedDigests):
        return list(digests.packed)
    try:
        return pack(digests)
    except ValueError as error:
        raise InvalidDigest(str(error)) from None


def size_of(key: bytes) -> int:
    """Return the size of the blob that *key* names."""
    return int.from_bytes(key[-SIZE_BYTES:], "big")
