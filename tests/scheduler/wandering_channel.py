"""The channel through which each call comes to another scheduler, as a proxy sends them that balances calls."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from itertools import cycle
from typing import TypeVar

from google.protobuf.message import Message

from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class WanderingChannel(Channel):
    """Hands each call to the next of *channels*."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = cycle(channels)

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        return await next(self._channels).unary_unary(
            method, request, timeout=timeout, metadata=metadata, on_trailers=on_trailers
        )

    def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        return next(self._channels).unary_stream(method, request, timeout=timeout, metadata=metadata)

    async def stream_unary(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        return await next(self._channels).stream_unary(
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
        return next(self._channels).stream_stream(method, requests, timeout=timeout, metadata=metadata)
