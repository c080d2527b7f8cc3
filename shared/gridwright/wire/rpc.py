"""What the generated ``*_rpc`` modules are made of: methods, services, and channels to call them through."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)

#: Bytes belong under keys that end in ``-bin``, text under all others.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
#: Hears the trailing metadata of a call when it has ended well.
OnTrailers: TypeAlias = Callable[[Metadata], None]


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Res]):
    """One RPC: what a transport must know of it to carry it."""

    #: On the wire: "/google.bytestream.ByteStream/QueryWriteStatus".
    path: str
    #: In Python: "query_write_status", of the servicer and of the client.
    name: str
    request: type[Req]
    response: type[Res]
    client_streaming: bool
    server_streaming: bool


@dataclass(frozen=True, slots=True)
class Service:
    """The RPCs that are served together under one name; every servicer class has one as ``service``."""

    full_name: str
    methods: tuple[Method[Any, Any], ...]


class Channel(Protocol):
    """What a generated client speaks through.

    Either a ``grpc.aio`` channel to somewhere else, or servicers in this same process: the
    client does not know, so a service that is tested without a network is the one that runs
    with it. All four raise errors of the family in ``gridwright.errors``, never gRPC's own.

    *timeout* is in seconds, and has no default: a call without a deadline (None) is a decision.
    """

    @abstractmethod
    async def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Res:
        """Send *request*, return the response."""

    @abstractmethod
    def unary_stream(
        self,
        method: Method[Req, Res],
        request: Req,
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Res]:
        """Send *request*, yield the responses; the call begins with the first step and ends with the iterator."""

    @abstractmethod
    async def stream_unary(
        self,
        method: Method[Req, Res],
        requests: AsyncIterable[Req],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Res:
        """Send *requests* until they end or the other side has heard enough, return the response."""

    @abstractmethod
    def stream_stream(
        self,
        method: Method[Req, Res],
        requests: AsyncIterable[Req],
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Res]:
        """Send *requests*, yield the responses as they come, each side at its own pace."""
