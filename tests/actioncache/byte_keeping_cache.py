"""An action cache of somebody else's that keeps results as the bytes that they are, on a real gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCache
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperator

_RESULT = pb.UpdateActionResultRequest.DESCRIPTOR.fields_by_name["action_result"].number
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class ByteKeepingCache:
    """Answers with the bytes that came; as an operator's service it removes, and nothing else."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, int, str, int], bytes] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Answer while the block runs; yield the target."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)])
        answers = {"GetActionResult": self._get, "UpdateActionResult": self._update}
        server.add_generic_rpc_handlers(
            [
                _handlers(ActionCache.service.full_name, answers),
                _handlers(ActionCacheOperator.service.full_name, {"Remove": self._remove}),
            ]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    def spoil(self, data: bytes) -> None:
        """Answer with *data* from now on, whatever has been kept."""
        self._results = dict.fromkeys(self._results, data)

    async def _get(self, data: bytes, context: Any) -> bytes:
        request = pb.GetActionResultRequest.FromString(data)
        found = self._results.get(_key(request, request.action_digest))
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such result")
        return found or b""

    async def _update(self, data: bytes, context: Any) -> bytes:
        request = pb.UpdateActionResultRequest.FromString(data)
        # To a message without fields all are unknown, and those are kept as they came.
        fields = UnknownFieldSet(Empty.FromString(data))
        (result,) = [fields[index].data for index in range(len(fields)) if fields[index].field_number == _RESULT]
        self._results[_key(request, request.action_digest)] = bytes(result)
        return bytes(result)

    async def _remove(self, data: bytes, context: Any) -> bytes:
        request = operator_pb2.RemoveRequest.FromString(data)
        for one in request.action_digests:
            self._results.pop(_key(request, one), None)
        return b""


def _handlers(service: str, answers: dict[str, Any]) -> grpc.GenericRpcHandler:
    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in answers.items()}
    return grpc.method_handlers_generic_handler(service, handlers)


def _key(request: Any, digest: pb.Digest) -> tuple[str, int, str, int]:
    return (request.instance_name, int(request.digest_function), digest.hash, digest.size_bytes)
