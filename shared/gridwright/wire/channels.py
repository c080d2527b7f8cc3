"""Channels: how clients reach servicers, over gRPC or in the same process."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from gridwright.auth.identity import ANONYMOUS, Identity
from gridwright.errors import DeadlineExceeded, Unavailable, Unimplemented
from gridwright.wire.call import Call
from gridwright.wire.early_answers import expect_early_answer
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers
from gridwright.wire.server import MAX_RECEIVE_BYTES
from gridwright.wire.serving import Servicer
from gridwright.wire.statuses import error_of_call

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
T = TypeVar("T", bound=Message)

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A service that restarts is back within a second or two: the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
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
    except grpc.aio.AioRpcError as error:
        raise error_of_call(error) from None
    finally:
        call.cancel()


class RetryingChannel(Channel):
    """Tries unary calls again while the other side is unavailable, up to their timeout.

    For calls that may safely arrive twice: all those that one service of ours makes to
    another are such. Streams pass through untried; who reads one knows where to resume.
    """

    def __init__(self, inner: Channel, *, first_delay_seconds: float = 0.05, max_delay_seconds: float = 1.0) -> None:
        self._inner = inner
        self._first_delay_seconds = first_delay_seconds
        self._max_delay_seconds = max_delay_seconds

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        give_up = None if timeout is None else time.monotonic() + timeout
        delay = self._first_delay_seconds
        while True:
            left = None if give_up is None else max(0.001, give_up - time.monotonic())
            try:
                return await self._inner.unary_unary(
                    method, request, timeout=left, metadata=metadata, on_trailers=on_trailers
                )
            except Unavailable as error:
                wait = max(delay * random.uniform(0.5, 1.0), error.retry_after_seconds or 0.0)
                if give_up is not None and time.monotonic() + wait >= give_up:
                    raise
            await asyncio.sleep(wait)
            delay = min(delay * 2, self._max_delay_seconds)

    def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        return self._inner.unary_stream(method, request, timeout=timeout, metadata=metadata)

    async def stream_unary(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        return await self._inner.stream_unary(
            method, requests, timeout=timeout, metadata=metadata, on_trailers=on_trailers
        )

    def stream_stream(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Response]:
        return self._inner.stream_stream(method, requests, timeout=timeout, metadata=metadata)


class InProcessChannel(Channel):
    """Calls servicers directly, without a transport; messages are serialised on the way, as on a wire.

    For tests, and for a process that holds several services. Errors of our family arrive
    as they were raised.
    """

    def __init__(self, *servicers: Servicer, identity: Identity = ANONYMOUS) -> None:
        self._answers = {
            method.path: getattr(servicer, method.name) for servicer in servicers for method in servicer.service.methods
        }
        self._identity = identity

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        call = self._call(timeout, metadata)
        async with _until(call.deadline):
            response = await self._answer(method)(_copy(method.request, request), call)
        if on_trailers is not None:
            on_trailers(call.trailers)
        return _copy(method.response, response)

    async def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        call = self._call(timeout, metadata)
        async with aclosing(self._answer(method)(_copy(method.request, request), call)) as responses:
            while (response := await _next(responses, call.deadline)) is not None:
                yield _copy(method.response, response)

    async def stream_unary(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        call = self._call(timeout, metadata)
        copies = (_copy(method.request, request) async for request in requests)
        async with _until(call.deadline):
            response = await self._answer(method)(copies, call)
        if on_trailers is not None:
            on_trailers(call.trailers)
        return _copy(method.response, response)

    async def stream_stream(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Response]:
        call = self._call(timeout, metadata)
        copies = (_copy(method.request, request) async for request in requests)
        async with aclosing(self._answer(method)(copies, call)) as responses:
            while (response := await _next(responses, call.deadline)) is not None:
                yield _copy(method.response, response)

    def _answer(self, method: Method[Any, Any]) -> Callable[..., Any]:
        try:
            return self._answers[method.path]  # type: ignore[no-any-return]
        except KeyError:
            raise Unimplemented(f"no servicer for {method.path}") from None

    def _call(self, timeout: float | None, metadata: Metadata) -> Call:
        deadline = None if timeout is None else time.monotonic() + timeout
        return Call(metadata=metadata, identity=self._identity, deadline=deadline)


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    """Cancel the block when the caller stops listening, as a transport does."""
    scope = asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic()))
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineExceeded("deadline exceeded") from None


async def _next(responses: AsyncIterator[Any], deadline: float | None) -> Any:
    """Return the next response; None after the last."""
    async with _until(deadline):
        return await anext(responses, None)


def _copy(kind: type[T], message: Message) -> T:
    return kind.FromString(message.SerializeToString())
