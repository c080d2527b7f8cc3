"""Digest messages become Digests here, and are checked once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest
from gridwright.instances import Instance
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

_HEXADECIMAL = b"0123456789abcdef"


def digest_function(named: int, hash_length: int, instance: Instance) -> DigestFunction:
    """Return the function that a request means.

    *named* is the request's ``digest_function``; 0 leaves it to the length of the hash
    (checklist DIG-05 to DIG-09).

    Raises:
        InvalidDigest: the instance does not use that function.
    """
    if named == pb.DigestFunction.UNKNOWN:
        if function := instance.by_hash_length.get(hash_length):
            return function
        raise InvalidDigest(
            f"no digest function of this instance has hashes of {hash_length} characters; {_usable(instance)}"
        )
    if named in instance.digest_functions:
        return DigestFunction(named)
    name = pb.DigestFunction.Value.Name(named) if named in pb.DigestFunction.Value.values() else str(named)
    raise InvalidDigest(f"digest function {name} is not used here; {_usable(instance)}", field="digest_function")


def make_digest(function: DigestFunction, hash_: str, size_bytes: int, *, field: str = "digest") -> Digest:
    """Return a Digest, once its parts have been checked (checklist DIG-01, DIG-03, DIG-08).

    Raises:
        InvalidDigest: *hash_* is not lower-case hexadecimal of the function's length, or the size is negative.
    """
    try:
        return Digest.checked(function, hash_, size_bytes)
    except ValueError as error:
        raise InvalidDigest(f"{field}: {error}", field=field) from None


def read_digest(message: pb.Digest, instance: Instance, named: int = 0, *, field: str = "digest") -> Digest:
    """Return the Digest that *message* holds; *named* is the request's ``digest_function``.

    Raises:
        InvalidDigest: it holds none.
    """
    if not message.hash:
        raise InvalidDigest(f"{field} is required and was not sent", field=field)
    function = digest_function(named, len(message.hash), instance)
    return make_digest(function, message.hash, message.size_bytes, field=field)


def read_digests(
    messages: Iterable[pb.Digest], instance: Instance, named: int = 0, *, field: str = "digests"
) -> list[Digest]:
    """Return the Digests of one request, which are all of one function (checklist DIG-10).

    Raises:
        InvalidDigest: naming the first that is wrong.
    """
    # A repeated field makes its messages anew for each walk along it.
    messages = list(messages)
    if (digests := read_sound_digests(messages, instance, named)) is not None:
        return digests
    first = read_digest(messages[0], instance, named, field=f"{field}[0]")
    others = (
        make_digest(first.function, message.hash, message.size_bytes, field=f"{field}[{index}]")
        for index, message in enumerate(messages[1:], start=1)
    )
    return [first, *others]


def read_sound_digests(messages: Sequence[pb.Digest], instance: Instance, named: int = 0) -> list[Digest] | None:
    """Return the Digests of one request, or None if anything is wrong with any of them: ask one by one then.

    The checks are those of ``make_digest``, made of all digests at once: of thousands of
    them, that takes a third of the time.
    """
    if not messages:
        return []
    hashes = [message.hash for message in messages]
    sizes = [message.size_bytes for message in messages]
    try:
        function = digest_function(named, len(hashes[0]), instance)
    except InvalidDigest:
        return None
    if set(map(len, hashes)) != {function.hash_length} or min(sizes) < 0:
        return None
    if "".join(hashes).encode().translate(None, _HEXADECIMAL):
        return None
    # What Digest._make does, without a Python call for each.
    return list(map(tuple.__new__, repeat(Digest), zip(repeat(function), hashes, sizes)))


def child_digest(message: pb.Digest, parent: Digest, *, field: str) -> Digest:
    """Return a digest found inside the document *parent*; it has the same function (checklist DIG-11).

    Raises:
        InvalidDigest: it has not, or is none.
    """
    return make_digest(parent.function, message.hash, message.size_bytes, field=field)


def digest_message(digest: Digest) -> pb.Digest:
    """Return the message that says *digest*."""
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def _usable(instance: Instance) -> str:
    return "usable are " + ", ".join(function.name for function in instance.digest_functions)
