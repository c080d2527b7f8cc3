"""The channel that notes whether the other side answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from google.protobuf.message import Message

from gridwright.errors import DeadlineExceeded, GridwrightError, Unavailable
from gridwright.wire.forwarding_channel import ForwardingChannel
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers
from gridwright_actioncache.results.dependency import DependencyHealth

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class WatchedChannel(ForwardingChannel):
    """Tells *health* of each unary call; an error that only the other side can have sent is an answer, too.

    Streams, of large blobs, pass through: they are few, and they fail for reasons of both sides.
    """

    def __init__(self, inner: Channel, health: DependencyHealth) -> None:
        super().__init__(inner)
        self._health = health

    def __repr__(self) -> str:
        return repr(self._inner)

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        with self._watched():
            return await super().unary_unary(
                method, request, timeout=timeout, metadata=metadata, on_trailers=on_trailers
            )

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (Unavailable, DeadlineExceeded) as error:
            self._health.failed(str(error))
            raise
        except GridwrightError:
            self._health.succeeded()
            raise
        self._health.succeeded()
