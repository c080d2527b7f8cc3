"""Calls to the action cache, of which one is for many actions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Set
from typing import Any

from google.rpc import code_pb2

from gridwright.auth.authenticator import SERVICE_HEADER
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.protos.gridwright.actioncache.v1 import batches_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.batches_rpc import GET_MANY, UPDATE_MANY
from gridwright.shared_calls import CallBounds, SharedCalls
from gridwright.wire.encoded_message import EncodedMessage, encoded
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Channel, Method
from gridwright.wire.statuses import error_of_status
from gridwright.wire.varint import varint

#: Only as the scheduler it may write where no client may.
_METADATA = ((SERVICE_HEADER, "scheduler"),)
_BOUNDS = CallBounds(keys_per_call=64, waiting_keys=10_000, gathering_seconds=0.001)
#: A larger request travels alone, so that a batch fits into a message whatever is in it.
_MAX_BATCHED_BYTES = 64 * 1024
#: After so long a cache that knows no batches is asked again; another version may have taken its place.
_SINGLE_SECONDS = 60.0
#: Of both batches: ``repeated … requests = 1``.
_REQUESTS_TAG = b"\x0a"
_GET, _UPDATE = encoded(GET_MANY), encoded(UPDATE_MANY)
#: What a single call may well change.
_WORTH_A_CALL = (ResourceExhausted, Unavailable)

_Answers = Mapping[bytes, re.ActionResult | GridwrightError]


class BatchedResults:
    """Asks an action cache for results, and sends it some, with one call for all that come at the same time.

    A call costs more than what it does: at some hundred actions a second, the two of each action
    were the largest part of what it cost. A cache that is not ours knows no batches, and
    gets single calls.

    Args:
        lookup_seconds: how long a call that asks may take.
        write_seconds: how long one that sends may take, with its retries.
    """

    def __init__(self, channel: Channel, *, lookup_seconds: float, write_seconds: float) -> None:
        self._channel = channel
        self._retrying = RetryingChannel(channel)
        self._lookup_seconds = lookup_seconds
        self._write_seconds = write_seconds
        self._lookups = SharedCalls[bytes, _Answers](self._get_many, _BOUNDS, "the action cache")
        self._writes = SharedCalls[bytes, _Answers](self._update_many, _BOUNDS, "the action cache")
        self._single_until = 0.0

    async def get(self, request: re.GetActionResultRequest) -> re.ActionResult:
        """Return a result; raise as GetActionResult does."""
        data = request.SerializeToString()
        if self._batches and len(data) <= _MAX_BATCHED_BYTES:
            answer = (await self._lookups.ask([data]))[data]
            if isinstance(answer, re.ActionResult):
                return answer
            if not isinstance(answer, (*_WORTH_A_CALL, Unimplemented)):
                raise answer
        client = ActionCacheClient(self._channel)
        return await client.get_action_result(request, timeout=self._lookup_seconds, metadata=_METADATA)

    async def update(self, request: re.UpdateActionResultRequest) -> None:
        """Store a result; raise as UpdateActionResult does."""
        data = request.SerializeToString()
        if self._batches and len(data) <= _MAX_BATCHED_BYTES:
            answer = (await self._writes.ask([data]))[data]
            if isinstance(answer, re.ActionResult):
                return
            if not isinstance(answer, (*_WORTH_A_CALL, Unimplemented)):
                raise answer
        client = ActionCacheClient(self._retrying)
        await client.update_action_result(request, timeout=self._write_seconds, metadata=_METADATA)

    async def close(self) -> None:
        """Give up what is on its way."""
        await self._lookups.aclose()
        await self._writes.aclose()

    @property
    def _batches(self) -> bool:
        return asyncio.get_running_loop().time() >= self._single_until

    async def _get_many(self, requests: Set[bytes]) -> _Answers:
        answer = await self._send(self._channel, _GET, requests, self._lookup_seconds)
        if answer is None:
            return dict.fromkeys(requests, Unimplemented("no batches"))
        answers = pb.GetManyResponse.FromString(answer).answers
        return {
            request: error_of_status(one.status) if one.status.code != code_pb2.OK else one.action_result
            for request, one in zip(requests, answers, strict=True)
        }

    async def _update_many(self, requests: Set[bytes]) -> _Answers:
        answer = await self._send(self._retrying, _UPDATE, requests, self._write_seconds)
        if answer is None:
            return dict.fromkeys(requests, Unimplemented("no batches"))
        statuses = pb.UpdateManyResponse.FromString(answer).statuses
        return {
            request: error_of_status(status) if status.code != code_pb2.OK else re.ActionResult()
            for request, status in zip(requests, statuses, strict=True)
        }

    async def _send(
        self, channel: Channel, method: Method[Any, Any], requests: Iterable[bytes], seconds: float
    ) -> bytes | None:
        """Return the answer to a batch of *requests*; None: the cache knows no batches."""
        batch = b"".join(part for one in requests for part in (_REQUESTS_TAG, varint(len(one)), one))
        try:
            answer = await channel.unary_unary(method, EncodedMessage(batch), timeout=seconds, metadata=_METADATA)
        except Unimplemented:
            self._single_until = asyncio.get_running_loop().time() + _SINGLE_SECONDS
            return None
        assert isinstance(answer, EncodedMessage)
        return answer.data
