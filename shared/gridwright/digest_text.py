"""Digests as people write and read them: ``hash/size``, where need be with their function before it."""

from __future__ import annotations

from gridwright.digest import Digest, DigestFunction

_FUNCTIONS = {function.name.lower(): function for function in DigestFunction}
#: SHA256 comes before BLAKE3, whose hashes are as long, and whose digests name their function.
_BY_HASH_LENGTH = {function.hash_length: function for function in reversed(DigestFunction)}


def parse_digest(text: str, function: DigestFunction | None = None) -> Digest:
    """Return the digest that *text* says: ``hash/size``, or ``blake3/hash/size`` as ``str(Digest)`` has it.

    *function* is what a text without a function means; by default the length of the hash
    tells, and 64 digits are SHA256.

    Raises:
        ValueError: saying what is wrong with it.
    """
    prefix, slash, rest = text.strip().partition("/")
    named = _FUNCTIONS.get(prefix.lower()) if slash else None
    hash_, slash, size = (rest if named else text.strip()).partition("/")
    if not slash or not size.isdecimal() or not size.isascii():
        raise ValueError(f"{text.strip()[:200]!r} is no digest: write HASH/SIZE")
    meant = named or function or _BY_HASH_LENGTH.get(len(hash_))
    if meant is None:
        raise ValueError(f"{text.strip()[:200]!r} is no digest: no digest function has hashes of {len(hash_)} digits")
    return Digest.checked(meant, hash_, int(size))
