"""ActionCache over the wire: requests checked, results looked up and kept."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gridwright.auth.identity import Role
from gridwright.errors import ActionResultNotFound, InvalidRequest
from gridwright.instances import Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCache
from gridwright.wire.action_results import check_action_result
from gridwright.wire.call import Call
from gridwright.wire.digests import read_digest
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright_actioncache.results.store import ResultStore

_FIELD = "action_result"


class ActionCacheServicer(ActionCache):
    """Answers with the results in a store (checklist ACG, ACU)."""

    def __init__(self, instances: Instances, results: ResultStore) -> None:
        self._instances = instances
        self._results = results

    async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.READER)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        found = await self._results.get_many(instance.name, [digest])
        if digest not in found:
            raise ActionResultNotFound(digest)
        try:
            return _with_metadata(pb.ActionResult.FromString(found[digest]))
        except DecodeError:
            # Not even its client would know what to do with it; built again, it is replaced.
            raise ActionResultNotFound(digest) from None

    async def update_action_result(self, request: pb.UpdateActionResultRequest, call: Call) -> pb.ActionResult:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.WRITER)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        if not request.HasField("action_result"):
            raise InvalidRequest("action_result is required and was not sent", field=_FIELD)
        check_action_result(request.action_result, digest)
        data = request.action_result.SerializeToString()
        if len(data) > MAX_BATCH_BYTES:
            raise InvalidRequest(
                f"{_FIELD}: {len(data)} bytes are more than the {MAX_BATCH_BYTES} that clients can receive; "
                "declare directories instead of many files, and inline less",
                field=_FIELD,
            )
        await self._results.put(instance.name, digest, data)
        return _with_metadata(request.action_result)


def _with_metadata(result: pb.ActionResult) -> pb.ActionResult:
    """Make sure that *result* has execution_metadata, without which Buck2 fails (checklist ACG-12, ACG-13)."""
    if not result.HasField("execution_metadata"):
        result.execution_metadata.SetInParent()
    return result
