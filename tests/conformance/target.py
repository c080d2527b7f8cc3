"""The endpoint under test, spoken to with nothing but gRPC and the messages of the protocol."""

from __future__ import annotations

import asyncio
import uuid as uuids
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import grpc
from google.protobuf.message import Message

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.wire.early_answers import expect_early_answer
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.refusal import Refusal, refused

__all__ = ["Kind", "Refusal", "Target", "connected", "digest_of", "fresh", "refused"]

Kind = Literal["direct", "gateway", "endpoint"]
M = TypeVar("M", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]

_CODES = {code.value[0]: code for code in grpc.StatusCode}
#: How long any call may take: far longer than any does, far shorter than the limit of a test.
CALL_SECONDS = 30.0
#: Of one message of an upload.
CHUNK_BYTES = 64 * 1024

_PACKAGES: Mapping[str, str] = {
    "ActionCache": "build.bazel.remote.execution.v2",
    "ByteStream": "google.bytestream",
    "Bots": "google.devtools.remoteworkers.v1test2",
    "Capabilities": "build.bazel.remote.execution.v2",
    "ContentAddressableStorage": "build.bazel.remote.execution.v2",
    "Execution": "build.bazel.remote.execution.v2",
    "Health": "grpc.health.v1",
    "Operations": "google.longrunning",
}
#: Test clients keep gRPC's default limits: 4 MiB for a message, 8 KiB for metadata (checklist GRP-03, GRP-06).
_OPTIONS = (
    # Each test has a connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class Target:
    """One way to one instance of an endpoint; every call sends :attr:`instance` unless a test says otherwise.

    Reached directly, each RPC service has an address of its own; :attr:`channel` is then that of the CAS,
    which is what *channels* does not name.
    """

    #: "direct": the service's own address. "gateway": through Envoy. "endpoint": what the command line named.
    kind: Kind
    #: The instance name to send.
    instance: str
    channel: grpc.aio.Channel
    #: The channels of the RPC services that are not reached by `channel`, by their short names.
    channels: Mapping[str, grpc.aio.Channel] = field(default_factory=dict)
    #: Headers to send with every call.
    metadata: Metadata = ()
    #: Where it is, as gRPC writes it.
    address: str = ""
    #: What the endpoint says of this instance.
    capabilities: pb.ServerCapabilities = field(default_factory=pb.ServerCapabilities)

    async def at(self, instance: str) -> Target:
        """Return the same endpoint for another *instance*."""
        there = replace(self, instance=instance)
        return replace(there, capabilities=await there.ask_capabilities())

    async def ask_capabilities(self) -> pb.ServerCapabilities:
        """Ask for the capabilities of the instance."""
        request = pb.GetCapabilitiesRequest(instance_name=self.instance)
        return await self.unary("Capabilities/GetCapabilities", request, pb.ServerCapabilities)

    async def unary(
        self,
        method: str,
        request: Message,
        response: type[M],
        *,
        metadata: Metadata = (),
        timeout: float = CALL_SECONDS,
        compression: grpc.Compression | None = None,
    ) -> M:
        """Call *method* ("ContentAddressableStorage/FindMissingBlobs", or a whole "/path") and return its answer.

        Raises:
            grpc.aio.AioRpcError: it is refused.
        """
        start = self.channel_of(method).unary_unary(_path(method), _encoded, response.FromString)
        answer: M = await start(request, timeout=timeout, metadata=(*self.metadata, *metadata), compression=compression)
        return answer

    async def raw(self, method: str, request: bytes) -> bytes:
        """Call *method* with bytes that need be no message, and return the bytes of its answer.

        Raises:
            grpc.aio.AioRpcError: it is refused.
        """
        start: Any = self.channel_of(method).unary_unary(_path(method))
        answer: bytes = await start(request, timeout=CALL_SECONDS, metadata=tuple(self.metadata))
        return answer

    async def trailers(self, method: str, request: Message) -> Mapping[str, str | bytes]:
        """Call *method* and return what comes after its answer.

        Raises:
            grpc.aio.AioRpcError: it is refused.
        """
        start: Any = self.channel_of(method).unary_unary(_path(method), _encoded)
        call = start(request, timeout=CALL_SECONDS, metadata=tuple(self.metadata))
        await call
        return {str(key): value for key, value in await call.trailing_metadata() or ()}

    async def streamed(
        self,
        method: str,
        request: Message,
        response: type[M],
        *,
        metadata: Metadata = (),
        timeout: float = CALL_SECONDS,
    ) -> AsyncIterator[M]:
        """Call *method* and yield its answers; the call ends with the iterator.

        Raises:
            grpc.aio.AioRpcError: it is refused, before or after some answers.
        """
        start = self.channel_of(method).unary_stream(_path(method), _encoded, response.FromString)
        call = start(request, timeout=timeout, metadata=(*self.metadata, *metadata))
        try:
            async for answer in call:
                yield answer
        finally:
            call.cancel()

    async def upload(
        self,
        requests: AsyncIterable[bs.WriteRequest] | Iterable[bs.WriteRequest],
        *,
        metadata: Metadata = (),
        timeout: float = CALL_SECONDS,
        compression: grpc.Compression | None = None,
    ) -> bs.WriteResponse:
        """Send *requests* to ByteStream.Write until they end or the server has answered; return the answer.

        Raises:
            grpc.aio.AioRpcError: it is refused.
        """
        start = self.channel.stream_unary("/google.bytestream.ByteStream/Write", _encoded, bs.WriteResponse.FromString)
        # Of an answer that comes before the last request, grpc.aio may else show INTERNAL.
        metadata = (*self.metadata, *metadata)
        call = expect_early_answer(start(timeout=timeout, metadata=metadata, compression=compression))
        sending = asyncio.create_task(_send(call, requests))
        try:
            answer: bs.WriteResponse = await call
            return answer
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            call.cancel()

    async def find_missing(self, digests: Iterable[pb.Digest], **fields: Any) -> list[pb.Digest]:
        """Return those of *digests* that the CAS says it lacks."""
        request = pb.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=digests, **fields)
        answer = await self.unary("ContentAddressableStorage/FindMissingBlobs", request, pb.FindMissingBlobsResponse)
        return list(answer.missing_blob_digests)

    async def update(self, blobs: Iterable[bytes], **fields: Any) -> pb.BatchUpdateBlobsResponse:
        """Upload *blobs* under their SHA-256 digests, in one batch."""
        entries = [pb.BatchUpdateBlobsRequest.Request(digest=digest_of(data), data=data) for data in blobs]
        return await self.update_entries(entries, **fields)

    async def update_entries(
        self, entries: Iterable[pb.BatchUpdateBlobsRequest.Request], **fields: Any
    ) -> pb.BatchUpdateBlobsResponse:
        """Send *entries* in one batch."""
        request = pb.BatchUpdateBlobsRequest(instance_name=self.instance, requests=entries, **fields)
        return await self.unary("ContentAddressableStorage/BatchUpdateBlobs", request, pb.BatchUpdateBlobsResponse)

    async def put(self, data: bytes, function: str = "SHA256") -> pb.Digest:
        """Upload *data*, which must be taken, and return its digest."""
        digest = digest_of(data, function)
        if len(data) > self.max_batch_bytes:
            name = self.upload_name(digest, function=function)
            answer = await self.write(name, chunks_of(data))
            assert answer.committed_size == len(data), answer
            return digest
        entry = pb.BatchUpdateBlobsRequest.Request(digest=digest, data=data)
        response = await self.update_entries([entry], digest_function=pb.DigestFunction.Value.Value(function))
        assert [one.status.code for one in response.responses] == [0], response
        return digest

    async def batch_read(self, digests: Iterable[pb.Digest], **fields: Any) -> pb.BatchReadBlobsResponse:
        """Read *digests* in one batch."""
        request = pb.BatchReadBlobsRequest(instance_name=self.instance, digests=digests, **fields)
        return await self.unary("ContentAddressableStorage/BatchReadBlobs", request, pb.BatchReadBlobsResponse)

    async def read(self, name: str, offset: int = 0, limit: int = 0) -> bytes:
        """Return what ByteStream.Read sends of the resource *name*."""
        request = bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        answers = self.streamed("ByteStream/Read", request, bs.ReadResponse)
        return b"".join([answer.data async for answer in answers])

    async def write(
        self, name: str, chunks: Iterable[bytes], *, finish: bool = True, offset: int = 0
    ) -> bs.WriteResponse:
        """Upload *chunks*, one message each, from *offset* on; the last one says finish_write if *finish*."""
        return await self.upload(write_requests(name, chunks, finish=finish, offset=offset))

    async def query(self, name: str) -> bs.QueryWriteStatusResponse:
        """Return how much of an upload the server has."""
        request = bs.QueryWriteStatusRequest(resource_name=name)
        return await self.unary("ByteStream/QueryWriteStatus", request, bs.QueryWriteStatusResponse)

    def resource(self, digest: pb.Digest, *, compressor: str = "", function: str = "SHA256") -> str:
        """Return the name under which the blob *digest* is read."""
        return f"{self.prefix}{_blob_name(digest, compressor, function)}"

    def upload_name(
        self, digest: pb.Digest, *, compressor: str = "", uuid: str | None = None, function: str = "SHA256"
    ) -> str:
        """Return a name under which the blob *digest* is uploaded; *uuid* is random by default."""
        upload = uuids.uuid4() if uuid is None else uuid
        return f"{self.prefix}uploads/{upload}/{_blob_name(digest, compressor, function)}"

    @property
    def max_batch_bytes(self) -> int:
        """How many bytes a batch may hold; 4 MB where the endpoint names no limit."""
        return self.capabilities.cache_capabilities.max_batch_total_size_bytes or 4_000_000

    def channel_of(self, method: str) -> grpc.aio.Channel:
        """Return the channel on which *method* is called."""
        service = method.removeprefix("/").split("/")[0].rpartition(".")[2]
        return self.channels.get(service, self.channel)

    @property
    def prefix(self) -> str:
        """What resource names of this instance begin with."""
        return f"{self.instance}/" if self.instance else ""


@asynccontextmanager
async def connected(
    kind: Kind,
    address: str,
    instance: str,
    others: Mapping[str, str] | None = None,
    *,
    options: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[Target]:
    """Yield the target at *address*.

    Args:
        others: the addresses of RPC services that are elsewhere, by short names.
        options: more options for the channels.
    """
    addresses = dict(others or {})
    channels = {
        one: grpc.aio.insecure_channel(one, options=(*_OPTIONS, *options)) for one in {address, *addresses.values()}
    }
    try:
        elsewhere = {name: channels[one] for name, one in addresses.items()}
        yield Target(kind, instance, channels[address], elsewhere, address=address)
    finally:
        for channel in channels.values():
            await channel.close()


def chunks_of(data: bytes, size: int = CHUNK_BYTES) -> list[bytes]:
    """Return *data* in pieces of *size* bytes; nothing is one empty piece."""
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def write_requests(
    name: str, chunks: Iterable[bytes], *, finish: bool = True, offset: int = 0
) -> Iterable[bs.WriteRequest]:
    """Yield the messages of an upload, as clients send them: the name comes with the first one."""
    chunks = list(chunks) or [b""]
    for index, chunk in enumerate(chunks):
        yield bs.WriteRequest(
            resource_name="" if index else name,
            write_offset=offset,
            data=chunk,
            finish_write=finish and index == len(chunks) - 1,
        )
        offset += len(chunk)


async def kept_open(requests: Iterable[M]) -> AsyncIterator[M]:
    """Yield *requests*, and then nothing more, without an end."""
    for request in requests:
        yield request
    await asyncio.Event().wait()


async def codes_of(
    answering: Awaitable[pb.BatchUpdateBlobsResponse | pb.BatchReadBlobsResponse],
) -> list[grpc.StatusCode]:
    """Return the status of each entry of a batch, or the one status with which the batch was refused."""
    try:
        answer = await answering
    except grpc.aio.AioRpcError as error:
        return [error.code()]
    return [_CODES[one.status.code] for one in answer.responses]


async def _send(call: Any, requests: AsyncIterable[Message] | Iterable[Message]) -> None:
    """Write *requests*, until the server has answered."""
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                await call.write(request)
        else:
            for request in requests:
                await call.write(request)
        await call.done_writing()


def _blob_name(digest: pb.Digest, compressor: str, function: str) -> str:
    kind = f"compressed-blobs/{compressor}" if compressor else "blobs"
    segment = f"{function.lower()}/" if function in ("BLAKE3", "SHA256TREE", "GITSHA1") else ""
    return f"{kind}/{segment}{digest.hash}/{digest.size_bytes}"


def _path(method: str) -> str:
    if method.startswith("/"):
        return method
    service, _, name = method.partition("/")
    return f"/{_PACKAGES[service]}.{service}/{name}"


def _encoded(message: Message) -> bytes:
    return message.SerializeToString()
