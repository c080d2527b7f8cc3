"""Servicers that show what a transport gives them, with one RPC of each of the four kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from google.protobuf import empty_pb2
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream, ByteStreamClient
from gridwright.protos.google.devtools.build.v1 import publish_build_event_pb2
from gridwright.protos.google.devtools.build.v1.publish_build_event_rpc import (
    PublishBuildEvent,
    PublishBuildEventClient,
)
from gridwright.settings import Address
from gridwright.wire.call import Call
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.rpc import Channel, Metadata
from gridwright.wire.server import ServerOptions, serving

Step = publish_build_event_pb2.PublishBuildToolEventStreamRequest
Answer = publish_build_event_pb2.PublishBuildToolEventStreamResponse


class Probe:
    """What the servicers saw, and what they are to do: *act* runs within each call, before its first answer."""

    def __init__(self) -> None:
        self.call = Call()
        self.act: Callable[[Call], Awaitable[None]] = do_nothing
        self.cancelled = asyncio.Event()

    async def visit(self, call: Call) -> None:
        self.call = call
        call.add_trailer("probe", "seen")
        try:
            await self.act(call)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def do_nothing(call: Call) -> None:
    """The default act."""


class ProbeByteStream(ByteStream):
    """Three of the kinds; each answers with 1, 2, 3 in its own way."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def read(self, request: bs.ReadRequest, call: Call) -> AsyncIterator[bs.ReadResponse]:
        await self._probe.visit(call)
        for number in (1, 2, 3):
            yield bs.ReadResponse(data=bytes([number]))

    async def write(self, requests: AsyncIterator[bs.WriteRequest], call: Call) -> bs.WriteResponse:
        await self._probe.visit(call)
        return bs.WriteResponse(committed_size=sum([len(request.data) async for request in requests]))

    async def query_write_status(self, request: bs.QueryWriteStatusRequest, call: Call) -> bs.QueryWriteStatusResponse:
        await self._probe.visit(call)
        return bs.QueryWriteStatusResponse(committed_size=len(request.resource_name))


class ProbeEvents(PublishBuildEvent):
    """The fourth kind: answers each message as it comes."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def publish_lifecycle_event(
        self, request: publish_build_event_pb2.PublishLifecycleEventRequest, call: Call
    ) -> empty_pb2.Empty:
        raise NotImplementedError

    async def publish_build_tool_event_stream(self, requests: AsyncIterator[Step], call: Call) -> AsyncIterator[Answer]:
        await self._probe.visit(call)
        async for request in requests:
            yield Answer(sequence_number=request.ordered_build_event.sequence_number)


async def unary_unary(channel: Channel, timeout: float | None = 5, metadata: Metadata = ()) -> list[int]:
    request = bs.QueryWriteStatusRequest(resource_name="abc")
    answer = await ByteStreamClient(channel).query_write_status(request, timeout=timeout, metadata=metadata)
    return [answer.committed_size]


async def unary_stream(channel: Channel, timeout: float | None = 5, metadata: Metadata = ()) -> list[int]:
    responses = ByteStreamClient(channel).read(bs.ReadRequest(), timeout=timeout, metadata=metadata)
    return [response.data[0] async for response in responses]


async def stream_unary(channel: Channel, timeout: float | None = 5, metadata: Metadata = ()) -> list[int]:
    async def requests() -> AsyncIterator[bs.WriteRequest]:
        for _ in range(3):
            yield bs.WriteRequest(data=b"x")

    answer = await ByteStreamClient(channel).write(requests(), timeout=timeout, metadata=metadata)
    return [answer.committed_size]


async def stream_stream(channel: Channel, timeout: float | None = 5, metadata: Metadata = ()) -> list[int]:
    async def requests() -> AsyncIterator[Step]:
        for number in (1, 2, 3):
            yield Step(ordered_build_event={"sequence_number": number})

    client = PublishBuildEventClient(channel)
    responses = client.publish_build_tool_event_stream(requests(), timeout=timeout, metadata=metadata)
    return [response.sequence_number async for response in responses]


#: One call of each kind, and what it returns.
KINDS: dict[str, tuple[Callable[..., Awaitable[list[int]]], list[int]]] = {
    "unary_unary": (unary_unary, [3]),
    "unary_stream": (unary_stream, [1, 2, 3]),
    "stream_unary": (stream_unary, [3]),
    "stream_stream": (stream_stream, [1, 2, 3]),
}


def options(*listen: str, registry: CollectorRegistry | None = None, drain_seconds: float = 5.0) -> ServerOptions:
    """Return options of a server for tests."""
    return ServerOptions(
        [Address.parse(one) for one in listen or ("127.0.0.1:0",)],
        LoopbackAuthenticator(),
        registry or CollectorRegistry(),
        drain_seconds,
    )


@asynccontextmanager
async def connected(transport: str, probe: Probe) -> AsyncIterator[Channel]:
    """Yield a channel to the probe's servicers: "grpc" or "in-process"."""
    servicers = (ProbeByteStream(probe), ProbeEvents(probe))
    if transport == "in-process":
        yield InProcessChannel(*servicers)
        return
    async with serving(servicers, options()) as (port,), GrpcChannel(f"127.0.0.1:{port}") as channel:
        yield channel
