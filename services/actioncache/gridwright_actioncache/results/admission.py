"""Whether a result may be kept, by what its action says and by what is in the CAS."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, FailedPrecondition, GridwrightError, InvalidRequest, MissingBlobs
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_actioncache.results.references import references_of_result

#: An Action names a Command and a directory; one that is larger than this is none.
_MAX_ACTION_BYTES = 1024 * 1024


async def check_admission(action_digest: Digest, result: bytes, blobs: BlobStore, *, strict: bool) -> None:
    """Refuse the *result* of an action that says ``do_not_cache`` (checklist ACU-11).

    An action that is not in the CAS can say nothing, and its result is kept: some caches of
    compilers name actions that they upload nowhere. *strict* refuses these, and results whose
    command or outputs are missing (ACU-03, ACU-10).

    Raises:
        FailedPrecondition: the action says so.
        MissingBlobs: *strict*, and these are not in the CAS.
        InvalidRequest: *strict*, and the blob of the action's digest is no Action.
        Unavailable: the CAS cannot answer.
    """
    action = await _action(action_digest, blobs, strict=strict)
    if action is not None and action.do_not_cache:
        raise FailedPrecondition(
            f"action {action_digest} says do_not_cache, so no result of it is kept; leave do_not_cache out to cache it"
        )
    if not strict or action is None:
        return
    command = action.command_digest
    needed = {Digest(action_digest.function, command.hash, command.size_bytes)}
    needed |= references_of_result(result, action_digest.function).blobs
    if missing := await blobs.missing(needed):
        raise MissingBlobs(missing, "blobs of the action and its result")


async def _action(digest: Digest, blobs: BlobStore, *, strict: bool) -> pb.Action | None:
    if digest.size_bytes > _MAX_ACTION_BYTES:
        if strict:
            raise InvalidRequest(f"action_digest {digest} is too large to be an Action's", field="action_digest")
        return None
    match (await blobs.get_many([digest]))[digest]:
        case bytes() as data:
            try:
                return pb.Action.FromString(data)
            except DecodeError:
                if strict:
                    raise InvalidRequest(f"blob {digest} is no Action", field="action_digest") from None
                return None
        case BlobNotFound():
            if strict:
                raise MissingBlobs([digest], "actions")
            return None
        case GridwrightError() as error:
            raise error
