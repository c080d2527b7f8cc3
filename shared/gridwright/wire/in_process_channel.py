"""The channel to servicers of the same process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from google.protobuf.message import Message

from gridwright.auth.identity import ANONYMOUS, Identity
from gridwright.errors import DeadlineExceeded, Unimplemented
from gridwright.wire.call import Call
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers
from gridwright.wire.serving import Servicer

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
T = TypeVar("T", bound=Message)


class InProcessChannel(Channel):
    """Calls servicers directly, without a transport; messages are serialised on the way, as on a wire.

    For tests, and for a process that holds several services. Errors of our family arrive
    as they were raised.
    """

    def __init__(self, *servicers: Servicer, identity: Identity = ANONYMOUS) -> None:
        self._served = {
            method.path: (getattr(servicer, method.name), method.request)
            for servicer in servicers
            for method in servicer.service.methods
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
        answer, kind = self._served_by(method)
        async with _until(call.deadline):
            response = await answer(_copy(kind, request), call)
        if on_trailers is not None:
            on_trailers(call.trailers)
        return _copy(method.response, response)

    async def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        call = self._call(timeout, metadata)
        answer, kind = self._served_by(method)
        async with aclosing(answer(_copy(kind, request), call)) as responses:
            while (response := await _next(responses, method.response, call.deadline)) is not None:
                yield response
                del response

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
        answer, kind = self._served_by(method)
        copies = (_copy(kind, request) async for request in requests)
        async with _until(call.deadline):
            response = await answer(copies, call)
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
        answer, kind = self._served_by(method)
        copies = (_copy(kind, request) async for request in requests)
        async with aclosing(answer(copies, call)) as responses:
            while (response := await _next(responses, method.response, call.deadline)) is not None:
                yield response
                del response

    def _served_by(self, method: Method[Any, Any]) -> tuple[Callable[..., Any], type[Message]]:
        """Return what answers *method*, and the type that it takes, which the caller's own need not be."""
        try:
            return self._served[method.path]
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


async def _next(responses: AsyncIterator[Any], kind: type[T], deadline: float | None) -> T | None:
    """Return the next response; None after the last."""
    async with _until(deadline):
        response = await anext(responses, None)
    return None if response is None else _copy(kind, response)


def _copy(kind: type[T], message: Message) -> T:
    return kind.FromString(message.SerializeToString())
