"""The channel that tries again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar

from google.protobuf.message import Message

from gridwright.errors import Unavailable
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


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
