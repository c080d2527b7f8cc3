"""What stands in Redis: keys that say of which action, and values that say so, too."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import quote

from gridwright.digest import Digest, DigestFunction

#: The form of values. Those of another form were not written by this version, and are passed over.
_FORM = b"\x01"
_CHECKSUM_BYTES = 8
_KEY = re.compile(rb"([a-z0-9]+):([0-9a-f]+):([0-9]+)")


class DamagedValue(Exception):
    """A value that is not what was put under its key."""


@lru_cache(maxsize=1024)
def key_prefix(prefix: str, instance: str) -> str:
    """Return what all keys of *instance* begin with, and no others.

    The instance's name is percent-encoded, so that none of its characters means anything in
    a pattern, and a cluster does not take a part of it for a hash tag.
    """
    return f"{prefix}:{quote(instance, safe='/')}:"


def to_key(prefix: str, instance: str, digest: Digest) -> bytes:
    """Return the key of an action: ``gridwright:main:sha256:<hash>:<size>``."""
    text = f"{key_prefix(prefix, instance)}{digest.function.name.lower()}:{digest.hash}:{digest.size_bytes}"
    return text.encode()


def from_key(key: bytes, start: str) -> Digest | None:
    """Return whose key it is that begins with *start*, or None if it is no action's."""
    match = _KEY.fullmatch(key, len(start.encode()))
    if match is None:
        return None
    name, text, size = (part.decode() for part in match.groups())
    function = DigestFunction.__members__.get(name.upper())
    if function is None or len(text) != function.hash_length:
        return None
    return Digest(function, text, int(size))


def to_value(key: bytes, result: bytes) -> bytes:
    """Return what is kept under *key* for *result*: the form, a checksum of both, and the result."""
    return b"".join((_FORM, _checksum(key, result), result))


def from_value(key: bytes, value: bytes) -> bytes:
    """Return the result.

    A database that many use, over connections that break, is the one place where a result
    might come back as that of another action; the checksum sees it.

    Raises:
        DamagedValue: it is not what was put under *key*.
    """
    start = len(_FORM) + _CHECKSUM_BYTES
    result = value[start:]
    if not value.startswith(_FORM) or value[len(_FORM) : start] != _checksum(key, result):
        raise DamagedValue
    return result


def _checksum(key: bytes, result: bytes) -> bytes:
    checksum = blake2b(key, digest_size=_CHECKSUM_BYTES)
    checksum.update(b"\0")
    checksum.update(result)
    return checksum.digest()
