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
