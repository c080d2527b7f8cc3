"""Servicers become grpc.aio handlers here: the one place where a Call is filled from a grpc context."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Protocol

import grpc
from google.protobuf.message import DecodeError

from gridwright.auth.authenticator import Authenticator
from gridwright.errors import InvalidRequest
from gridwright.wire.call import Call
from gridwright.wire.rpc import Method, Service


class Servicer(Protocol):
    """Any class that inherits a generated service Protocol."""

    service: ClassVar[Service]


def generic_handler(servicer: Servicer, authenticator: Authenticator) -> grpc.GenericRpcHandler:
    """Return the grpc handler that lets *servicer* answer its service's methods."""
    handlers = {
        method.path.rpartition("/")[2]: _handler(getattr(servicer, method.name), method, authenticator)
        for method in servicer.service.methods
    }
    return grpc.method_handlers_generic_handler(servicer.service.full_name, handlers)


def _handler(answer: Callable[..., Any], method: Method[Any, Any], authenticator: Authenticator) -> Any:
    def open_call(context: Any) -> Call:
        metadata: Sequence[tuple[str, str | bytes]] = context.invocation_metadata()
        peer: str = context.peer()
        remaining: float | None = context.time_remaining()
        return Call(
            metadata=metadata,
            identity=authenticator.authenticate(metadata, peer),
            deadline=None if remaining is None else time.monotonic() + remaining,
            peer=peer,
        )

    # Decoded here and not by grpc, which answers bytes that are no message with UNKNOWN.
    def decoded(request: Any, context: Any) -> Any:
        return _decoded_stream(method, context) if method.client_streaming else _decoded(method, request)

    async def unary(request: Any, context: Any) -> Any:
        call = open_call(context)
        try:
            return await answer(decoded(request, context), call)
        finally:
            if call.trailers:
                context.set_trailing_metadata(call.trailers)

    async def stream(request: Any, context: Any) -> None:
        call = open_call(context)
        try:
            async with aclosing(answer(decoded(request, context), call)) as responses:
                async for response in responses:
                    await _write(context, response)
                    del response  # which may be of some MiB, while the next one is awaited
        finally:
            if call.trailers:
                context.set_trailing_metadata(call.trailers)

    codecs = (None, _encoded)
    match method.client_streaming, method.server_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler(unary, *codecs)
        case False, True:
            return grpc.unary_stream_rpc_method_handler(stream, *codecs)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(unary, *codecs)
        case _:
            return grpc.stream_stream_rpc_method_handler(stream, *codecs)


async def _write(context: Any, response: Any) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # The caller has gone, and grpc says so here before it cancels the call.
        raise asyncio.CancelledError from None


def _encoded(response: Any) -> bytes:
    """Anything that encodes itself is an answer: a servicer may have a cheaper way than protobuf's."""
    encoded: bytes = response.SerializeToString()
    return encoded


def _decoded(method: Method[Any, Any], data: bytes) -> Any:
    try:
        return method.request.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"the request is no {method.request.DESCRIPTOR.full_name} message") from None


async def _decoded_stream(method: Method[Any, Any], context: Any) -> AsyncIterator[Any]:
    """Yield what comes, and keep nothing of it while the next message is awaited, perhaps for long.

    The iterator that grpc has for this keeps the last one, which may be of some MiB.
    """
    while (data := await context.read()) is not grpc.aio.EOF:
        held = [_decoded(method, data)]
        del data
        yield held.pop()
