"""The channel to a gRPC server somewhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from gridwright.wire.early_answers import expect_early_answer
from gridwright.wire.limits import MAX_RECEIVE_BYTES
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers
from gridwright.wire.statuses import error_of_call

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A service that restarts is back within a second or two: the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one attempt to connect may take, whatever its name says: on a machine that is busy, 100 ms were too few.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A proxy for the web is not meant for the services of a grid.
    ("grpc.enable_http_proxy", 0),
    # Retries are RetryingChannel's, which knows the caller's time limit; gRPC stops after five.
    ("grpc.enable_retries", 0),
)


class GrpcChannel(Channel):
    """A connection to one gRPC target (``host:port``, ``unix:path``, ``dns:///name:port``); close it when done."""

    def __init__(self, target: str, *, options: Sequence[tuple[str, str | int]] = ()) -> None:
        self._target = target
        self._channel = grpc.aio.insecure_channel(target, options=(*_OPTIONS, *options))

    def __repr__(self) -> str:
        return f"<GrpcChannel {self._target}>"

    async def __aenter__(self) -> GrpcChannel:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut what is in flight and hang up."""
        await self._channel.close()

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        start = self._channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        answer: Response = await _unary_answer(start(request, timeout=timeout, metadata=tuple(metadata)), on_trailers)
        return answer

    def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        start = self._channel.unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
        return _stream_answers(start, request, timeout, metadata)

    async def stream_unary(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        start = self._channel.stream_unary(method.path, method.request.SerializeToString, method.response.FromString)
        call = expect_early_answer(start(timeout=timeout, metadata=tuple(metadata)))
        try:
            try:
                # Writing from here, rather than handing over the iterator, lets its own errors pass through.
                async for request in requests:
                    await call.write(request)
                await call.done_writing()
            except asyncio.InvalidStateError:
                pass  # the server has answered before the end, which the answer below tells of
            except grpc.aio.AioRpcError:
                pass  # likewise
            answer: Response = await _unary_answer(call, on_trailers)
            return answer
        finally:
            call.cancel()

    def stream_stream(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Response]:
        start = self._channel.stream_stream(method.path, method.request.SerializeToString, method.response.FromString)
        return _stream_answers(
            lambda *args, **kwargs: expect_early_answer(start(*args, **kwargs)), requests, timeout, metadata
        )


async def _unary_answer(call: Any, on_trailers: OnTrailers | None) -> Any:
    try:
        response = await call
        if on_trailers is not None:
            on_trailers(tuple(await call.trailing_metadata() or ()))
        return response
    except grpc.aio.AioRpcError as error:
        raise error_of_call(error) from None


async def _stream_answers(
    start: Callable[..., Any], request: Any, timeout: float | None, metadata: Metadata
) -> AsyncIterator[Any]:
    call = start(request, timeout=timeout, metadata=tuple(metadata))
    try:
        async for response in call:
            yield response
            del response
    except grpc.aio.AioRpcError as error:
        raise error_of_call(error) from None
    finally:
        call.cancel()
