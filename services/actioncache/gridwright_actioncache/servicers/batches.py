"""ActionCacheBatches over the wire: the methods of ActionCache, for many actions at a time."""

from __future__ import annotations

import asyncio

from google.rpc import status_pb2

from gridwright.errors import GridwrightError, ResourceExhausted
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.gridwright.actioncache.v1 import batches_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.batches_rpc import ActionCacheBatches
from gridwright.wire.call import Call
from gridwright.wire.limits import MAX_RECEIVE_BYTES
from gridwright.wire.statuses import ok_status, status_message
from gridwright_actioncache.servicers.actioncache import ActionCacheServicer

#: What answers hold together; one more of any size fits as well.
_MAX_ANSWER_BYTES = MAX_RECEIVE_BYTES // 2


class ActionCacheBatchesServicer(ActionCacheBatches):
    """Answers as *single* does, which checks each request by itself: a batch can do no more than single calls."""

    def __init__(self, single: ActionCacheServicer) -> None:
        self._single = single

    async def get_many(self, request: pb.GetManyRequest, call: Call) -> pb.GetManyResponse:
        answers = await asyncio.gather(*(self._get(one, call) for one in request.requests))
        response = pb.GetManyResponse()
        left_bytes = _MAX_ANSWER_BYTES
        for answer in answers:
            if isinstance(answer, GridwrightError):
                response.answers.add(status=status_message(answer))
                continue
            if left_bytes <= 0:
                answer = ResourceExhausted("the results of this batch are too large together; ask for this one alone")
                response.answers.add(status=status_message(answer))
                continue
            left_bytes -= answer.ByteSize()
            response.answers.add(action_result=answer)
        return response

    async def update_many(self, request: pb.UpdateManyRequest, call: Call) -> pb.UpdateManyResponse:
        statuses = await asyncio.gather(*(self._update(one, call) for one in request.requests))
        return pb.UpdateManyResponse(statuses=statuses)

    async def _get(self, request: re.GetActionResultRequest, call: Call) -> re.ActionResult | GridwrightError:
        try:
            return await self._single.get_action_result(request, call)
        except GridwrightError as error:
            return error

    async def _update(self, request: re.UpdateActionResultRequest, call: Call) -> status_pb2.Status:
        try:
            await self._single.update_action_result(request, call)
        except GridwrightError as error:
            return status_message(error)
        return ok_status()
