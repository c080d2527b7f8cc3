"""The channel that changes nothing, for those that change one thing."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar

from google.protobuf.message import Message

from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class ForwardingChannel(Channel):
    """Hands every call to *inner*."""

    def __init__(self, inner: Channel) -> None:
        self._inner = inner

    def _to(self) -> Channel:
        """Return the channel for the call that begins now."""
        return self._inner

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        return await self._to().unary_unary(
            method, request, timeout=timeout, metadata=metadata, on_trailers=on_trailers
        )

    def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        return self._to().unary_stream(method, request, timeout=timeout, metadata=metadata)

    async def stream_unary(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        return await self._to().stream_unary(
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
        return self._to().stream_stream(method, requests, timeout=timeout, metadata=metadata)
