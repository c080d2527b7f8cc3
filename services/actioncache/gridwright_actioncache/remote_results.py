"""Another action cache, as a store of results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

from google.protobuf.message import DecodeError

from gridwright.digest import Digest
from gridwright.errors import InternalError, InvalidRequest, NotFound, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    GET_ACTION_RESULT,
    UPDATE_ACTION_RESULT,
)
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperatorClient
from gridwright.wire.digests import digest_message
from gridwright.wire.encoded_message import EncodedMessage, encoded
from gridwright.wire.rpc import Channel, Method
from gridwright.wire.varint import varint
from gridwright_actioncache.results.provenance import of_unknown_origin, result_in
from gridwright_actioncache.results.store import ResultStore

#: The protocol asks for one result at a time; so many questions are on their way at once.
_CALLS = 64
_REMOVED_AT_ONCE = 1_000
_GET = encoded(GET_ACTION_RESULT)
_UPDATE = encoded(UPDATE_ACTION_RESULT)
#: The key of the result in an update, which is length-delimited; fields may come in any order, so it comes last.
_RESULT_KEY = bytes([pb.UpdateActionResultRequest.DESCRIPTOR.fields_by_name["action_result"].number << 3 | 2])


class RemoteResultStore(ResultStore):
    """Keeps results in another action cache, over the Remote Execution API.

    The branch office asks the cache at home, or one grid that of another. Results travel as
    the bytes that they are; a cache that is no store of bytes, as one that adds metadata or
    moves contents into its CAS, answers with what it made of them. Where a result came from,
    the other side keeps its own word of: ours stays here. What the protocol does not
    offer (removing, and telling what there is) works where the other side is a Gridwright that
    grants us the role admin, as far as it goes.

    Args:
        channel: how the action cache is reached.
        instance: the instance name to use there; None for the same as here.
        timeout_seconds: bound on each call, retries included.
    """

    def __init__(self, channel: Channel, *, instance: str | None, timeout_seconds: float) -> None:
        self._channel = channel
        self._operator = ActionCacheOperatorClient(channel)
        self._instance = instance
        self._timeout_seconds = timeout_seconds
        self._calls = asyncio.Semaphore(_CALLS)

    def __repr__(self) -> str:
        return f"<RemoteResultStore {self._channel!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        digests = list(dict.fromkeys(action_digests))
        answers = await asyncio.gather(*(self._get(instance, digest) for digest in digests))
        return {digest: answer for digest, answer in zip(digests, answers, strict=True) if answer is not None}

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        others = pb.UpdateActionResultRequest(
            instance_name=self._name_there(instance),
            action_digest=digest_message(action_digest),
            digest_function=int(action_digest.function),  # type: ignore[arg-type]  # the same numbers
        )
        data = result_in(result)
        await self._call(_UPDATE, b"".join((others.SerializeToString(), _RESULT_KEY, varint(len(data)), data)))

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        """Remove the results there.

        Raises:
            Unimplemented: it is none of ours, and the protocol has no way to.
            PermissionDenied: it does not let us.
        """
        groups: dict[int, list[pb.Digest]] = {}
        for digest in dict.fromkeys(action_digests):
            groups.setdefault(int(digest.function), []).append(digest_message(digest))
        for function, messages in groups.items():
            for start in range(0, len(messages), _REMOVED_AT_ONCE):
                request = operator_pb2.RemoveRequest(
                    instance_name=self._name_there(instance),
                    action_digests=messages[start : start + _REMOVED_AT_ONCE],
                    digest_function=function,  # type: ignore[arg-type]
                )
                await self._operator.remove(request, timeout=self._timeout_seconds)

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        raise Unimplemented(
            f"the action cache behind {self._channel!r} cannot say what it holds; run this command against it"
        )

    async def _get(self, instance: str, digest: Digest) -> bytes | None:
        request = pb.GetActionResultRequest(
            instance_name=self._name_there(instance),
            action_digest=digest_message(digest),
            digest_function=int(digest.function),  # type: ignore[arg-type]
        )
        async with self._calls:
            try:
                result = await self._call(_GET, request.SerializeToString())
            except NotFound:
                return None
        _check(result)
        return of_unknown_origin(result)

    async def _call(self, method: Method[EncodedMessage, EncodedMessage], request: bytes) -> bytes:
        try:
            answer = await self._channel.unary_unary(method, EncodedMessage(request), timeout=self._timeout_seconds)
        except InvalidRequest as error:
            raise _misled(error) from error
        return answer.data

    def _name_there(self, instance: str) -> str:
        return instance if self._instance is None else self._instance


def _check(result: bytes) -> None:
    """Refuse what is no result: who passed it on, or kept it, would take it for a miss later."""
    try:
        pb.ActionResult.FromString(result)
    except DecodeError:
        raise InternalError("the action cache behind this one answers with what is no ActionResult") from None


def _misled(error: InvalidRequest) -> InternalError:
    """The request was ours, so its fault is not our caller's: an instance that is not known there, say."""
    return InternalError(f"the action cache behind this one refuses: {error}")
