"""Contents that came inside a result, moved to the CAS."""

from __future__ import annotations

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb


def holds_contents(result: pb.ActionResult) -> bool:
    """Return whether contents travel inside *result*."""
    return bool(result.stdout_raw or result.stderr_raw or any(file.contents for file in result.output_files))


async def move_outside(result: pb.ActionResult, blobs: BlobStore, function: DigestFunction) -> None:
    """Keep the contents inside *result* as blobs and leave their digests in it (checklist ACU-06).

    Clients should not send any, and old ones do. Kept inside, they would come to every
    client, wanted or not, and a client that asks for the digest would not find it.

    Raises:
        InvalidRequest: contents are not those that their digest names.
        ResourceExhausted: the CAS has no room for them.
        Unavailable: the CAS cannot answer.
    """
    found: dict[Digest, bytes] = {}
    if result.stdout_raw:
        digest = _digest_of(result.stdout_raw, result.stdout_digest, function, "stdout_raw")
        found[digest] = result.stdout_raw
        result.stdout_digest.CopyFrom(_message(digest))
    if result.stderr_raw:
        digest = _digest_of(result.stderr_raw, result.stderr_digest, function, "stderr_raw")
        found[digest] = result.stderr_raw
        result.stderr_digest.CopyFrom(_message(digest))
    for index, file in enumerate(result.output_files):
        if file.contents:
            field = f"output_files[{index}].contents"
            found[_digest_of(file.contents, file.digest, function, field)] = file.contents
    if not found:
        return
    for error in (await blobs.put_many(found)).values():
        if error is not None:
            raise error
    result.ClearField("stdout_raw")
    result.ClearField("stderr_raw")
    for file in result.output_files:
        file.ClearField("contents")


def _digest_of(contents: bytes, named: pb.Digest, function: DigestFunction, field: str) -> Digest:
    digest = function.digest(contents)
    if named.hash and (named.hash, named.size_bytes) != (digest.hash, digest.size_bytes):
        raise InvalidRequest(
            f"action_result.{field}: these are the contents of {digest}, not of {named.hash}/{named.size_bytes}; "
            "send only the digest, and the contents to the CAS",
            field=f"action_result.{field}",
        )
    return digest


def _message(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)
