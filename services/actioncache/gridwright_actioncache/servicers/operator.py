"""ActionCacheOperator over the wire: what operators ask an action cache, and revoke."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gridwright.auth.identity import Role
from gridwright.errors import InvalidRequest, PermissionDenied
from gridwright.instances import Instances
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperator
from gridwright.wire.call import Call
from gridwright.wire.digests import digest_message, read_digest, read_digests
from gridwright_actioncache.results.provenance import split_document, unix_seconds
from gridwright_actioncache.results.purge import Condemned, revoke
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome

_MAX_REMOVED = 10_000
_MAX_MISSING = 1_000
_VERDICTS = {
    Outcome.HIT: pb.ExplainResponse.HIT,
    Outcome.ABSENT: pb.ExplainResponse.ABSENT,
    Outcome.INCOMPLETE: pb.ExplainResponse.INCOMPLETE,
    Outcome.MALFORMED: pb.ExplainResponse.MALFORMED,
    Outcome.EXPIRED: pb.ExplainResponse.EXPIRED,
}


class ActionCacheOperatorServicer(ActionCacheOperator):
    """Looks into a store of results, and revokes what is wrong in it."""

    def __init__(self, instances: Instances, results: ResultStore) -> None:
        self._instances = instances
        self._results = results

    async def explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.READER)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        verdict = await self._results.explain(instance.name, digest)
        answer = pb.ExplainResponse(verdict=_VERDICTS[verdict.outcome], missing_blobs=len(verdict.missing))
        if verdict.document is not None:
            answer.action_result, provenance = split_document(verdict.document)
            if provenance is not None:
                answer.provenance.CopyFrom(provenance.message)
        answer.missing_blob_digests.extend(map(digest_message, sorted(verdict.missing)[:_MAX_MISSING]))
        return answer

    async def remove(self, request: pb.RemoveRequest, call: Call) -> pb.RemoveResponse:
        instance = self._instances[request.instance_name]
        _require_operator(call)
        if len(request.action_digests) > _MAX_REMOVED:
            raise InvalidRequest(
                f"at most {_MAX_REMOVED} results at a time; send several requests", field="action_digests"
            )
        digests = read_digests(request.action_digests, instance, request.digest_function, field="action_digests")
        await self._results.remove(instance.name, digests)
        return pb.RemoveResponse()

    async def purge(self, request: pb.PurgeRequest, call: Call) -> AsyncIterator[pb.PurgeResponse]:
        instance = self._instances[request.instance_name]
        _require_operator(call)
        condemned = Condemned(
            worker=request.worker,
            subject=request.subject,
            since=unix_seconds(request.since) if request.HasField("since") else None,
            until=unix_seconds(request.until) if request.HasField("until") else None,
        )
        if condemned.is_everything:
            raise InvalidRequest("say which results are to go: by worker, subject, since or until")
        progress = pb.PurgeResponse()
        async for page in self._results.walk(instance.name):
            progress.examined += len(page)
            progress.removed += await revoke(self._results, instance.name, page, condemned, dry_run=request.dry_run)
            yield progress
        if not progress.examined:
            yield progress


def _require_operator(call: Call) -> None:
    if Role.ADMIN not in call.identity.roles:
        raise PermissionDenied(
            f"{call.identity.subject} lacks the role {Role.ADMIN.value!r} that this call needs; write "
            "auth.local_operators: true where whoever reaches the gateway may have it, or work on the directory of the "
            "action cache, on its machine"
        )
