"""ActionCache over the wire: requests checked, results looked up and kept."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from gridwright.auth.identity import Role
from gridwright.auth.result_writers import right_to_write
from gridwright.blobs.store import BlobStore
from gridwright.clock import Clock
from gridwright.errors import ActionResultNotFound, GridwrightError, InvalidRequest, PermissionDenied
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCache
from gridwright.wire.action_results import check_action_result
from gridwright.wire.call import Call
from gridwright.wire.digests import read_digest
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright_actioncache.lookups import Lookups
from gridwright_actioncache.results.admission import check_admission
from gridwright_actioncache.results.inlining import Wanted, bring_inside
from gridwright_actioncache.results.outlining import holds_contents, move_outside
from gridwright_actioncache.results.provenance import Provenance, result_in, with_provenance
from gridwright_actioncache.results.store import ResultStore

_FIELD = "action_result"
#: The right of the grid's own scheduler, which checks actions itself before it runs them.
_SCHEDULER = "scheduler"
#: That of those who may do nothing but read.
_ANYONE = "anyone"
#: Beyond this a result cannot be kept, nor sent: clients receive 4 MiB by default (checklist GRP-03).
_MAX_RESULT_BYTES = MAX_BATCH_BYTES


class ActionCacheServicer(ActionCache):
    """Answers with the results in a store (checklist ACG, ACU).

    Args:
        blobs: the CAS of each instance, for contents that travel inside results.
        lookups: counts what becomes of questions.
    """

    def __init__(
        self,
        instances: Instances,
        results: ResultStore,
        blobs: Mapping[str, BlobStore],
        clock: Clock,
        lookups: Lookups,
    ) -> None:
        self._instances = instances
        self._results = results
        self._blobs = blobs
        self._clock = clock
        self._lookups = lookups

    async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.READER)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        try:
            found = await self._results.get_many(instance.name, [digest])
        except GridwrightError:
            self._lookups.failures[instance.name] += 1
            raise
        result = _result_in(found.get(digest))
        if result is not None:
            wanted = Wanted(request.inline_stdout, request.inline_stderr, request.inline_output_files)
            blobs = self._blobs[instance.name]
            await bring_inside(result, wanted, blobs, digest.function, max_bytes=_MAX_RESULT_BYTES)
            if result.ByteSize() > _MAX_RESULT_BYTES:
                # No client would receive it.
                self._lookups.too_large += 1
                result = None
        if result is None:
            self._lookups.misses[instance.name] += 1
            raise ActionResultNotFound(digest)
        self._lookups.hits[instance.name] += 1
        return _with_metadata(result)

    async def update_action_result(self, request: pb.UpdateActionResultRequest, call: Call) -> pb.ActionResult:
        instance = self._instances[request.instance_name]
        right = _right_of(call, instance)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        if not request.HasField("action_result"):
            raise InvalidRequest("action_result is required and was not sent", field=_FIELD)
        result = request.action_result
        check_action_result(result, digest)
        if right == _ANYONE and holds_contents(result):
            # They become blobs, which not all upload who may read.
            call.identity.require(Role.CAS_WRITER)
        blobs = self._blobs[instance.name]
        await move_outside(result, blobs, digest.function)
        data = result.SerializeToString()
        if len(data) > _MAX_RESULT_BYTES:
            raise InvalidRequest(
                f"{_FIELD}: {len(data)} bytes are more than the {_MAX_RESULT_BYTES} that clients can receive; "
                "declare directories instead of many files",
                field=_FIELD,
            )
        if right != _SCHEDULER:
            await check_admission(digest, data, blobs, strict=instance.strict_results)
        provenance = Provenance(call.identity.subject, right, self._clock.now(), result.execution_metadata.worker)
        await self._results.put(instance.name, digest, with_provenance(data, provenance))
        return _with_metadata(result)


def _right_of(call: Call, instance: Instance) -> str:
    """Return by what right the caller writes results.

    Raises:
        PermissionDenied: by none.
    """
    right = right_to_write(instance.result_writers, call.identity.roles)
    if right is None:
        if instance.read_only:
            raise PermissionDenied(f"instance {instance.name!r} is read-only; write results to another one, or none")
        raise PermissionDenied(
            f"{call.identity.subject} may not write results of instance {instance.name!r}, which takes those of "
            f"{instance.result_writers.value!r} (result_writers in its settings); upload none, or ask for the role"
        )
    return right


def _result_in(document: bytes | None) -> pb.ActionResult | None:
    """Return the result in a stored document; one that is none is built again, and replaced."""
    if document is None:
        return None
    try:
        return pb.ActionResult.FromString(result_in(document))
    except DecodeError:
        return None


def _with_metadata(result: pb.ActionResult) -> pb.ActionResult:
    """Make sure that *result* has execution_metadata, without which Buck2 fails (checklist ACG-12, ACG-13)."""
    if not result.HasField("execution_metadata"):
        result.execution_metadata.SetInParent()
    return result
