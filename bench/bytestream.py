"""One large blob, up and down."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import grpc

from bench.memory import watching
from bench.report import print_memory, print_table
from bench.target import Target
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import READ, WRITE
from gridwright.wire.varint import varint

#: Reads, where it is installed; how fast a client in Python reads says more of the client.
CURL = shutil.which("curl")
_TIMEOUT_SECONDS = 600.0
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
#: The field ``data`` of WriteRequest, 10, with a length before it. It is put behind the other fields as it is, since a
#: client that lets protobuf copy it twice takes as long as the server that it measures.
_DATA_TAG = b"\x52"


class Blob:
    """A blob that no grid has seen, made again for each walk along it, so that it takes no memory."""

    def __init__(self, size_bytes: int, chunk_bytes: int) -> None:
        self._noise = os.urandom(chunk_bytes)
        self.size_bytes = size_bytes
        sha256 = hashlib.sha256()
        for _, chunk in self.chunks():
            sha256.update(chunk)
        self.name = f"{sha256.hexdigest()}/{size_bytes}"

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """Yield each piece and where it begins; no two are alike."""
        for start in range(0, self.size_bytes, len(self._noise)):
            yield start, (start.to_bytes(8) + self._noise[8:])[: self.size_bytes - start]


async def bench_bytestream(targets: Sequence[Target], *, size_bytes: int, chunk_bytes: int, repeat: int) -> None:
    """Write and read a new blob, *repeat* times per target, through its gateway and past it; print the medians."""
    rows = []
    peaks: dict[str, int] = {}
    for target in targets:
        ways = [(f"{target.name}, gateway" if target.direct_cas else target.name, target)]
        if target.direct_cas:
            ways.append((f"{target.name}, direct", replace(target, endpoint=target.direct_cas)))
        async with watching(target.data) as seen:
            for name, way in ways:
                rates = [
                    await write_and_read(way.endpoint, way.instance, Blob(size_bytes, chunk_bytes))
                    for _ in range(repeat)
                ]
                rows.append({"grid": name, **rate_cells(rates)})
        peaks |= seen
    print_table(f"ByteStream, {described(size_bytes, chunk_bytes)} (median of {repeat})", rows)
    print_memory(peaks)


@dataclass(frozen=True, slots=True)
class Rates:
    """In MB/s."""

    write: float
    #: Of the first time, and of the third: a store may keep out of the page cache what is read but once.
    read: float
    read_again: float


def described(size_bytes: int, chunk_bytes: int) -> str:
    """Return what is written and read, for the title of a table."""
    size = f"a blob of {size_bytes / 2**20:.0f} MiB in messages of {chunk_bytes / 1024:.0f} KiB"
    return f"{size}, read by {'curl' if CURL else 'a client in Python (curl is not installed)'}"


def rate_cells(rates: Sequence[Rates]) -> dict[str, str]:
    """Return the medians of *rates*, for a table."""
    return {
        "write MB/s": f"{statistics.median(one.write for one in rates):.0f}",
        "read MB/s": f"{statistics.median(one.read for one in rates):.0f}",
        "3rd read MB/s": f"{statistics.median(one.read_again for one in rates):.0f}",
    }


async def write_and_read(endpoint: str, instance: str, blob: Blob) -> Rates:
    """Write *blob* and read it three times.

    Raises:
        RuntimeError: other than its bytes were committed or came back, by their number.
    """
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
    async with grpc.aio.insecure_channel(endpoint, options=options) as channel:
        await channel.channel_ready()
        prefix = f"{instance}/" if instance else ""
        times = [time.perf_counter()]
        await write(channel, f"{prefix}uploads/{uuid.uuid4()}/blobs/{blob.name}", blob)
        times.append(time.perf_counter())
        for _ in range(3):
            if CURL:
                await _read_by_curl(endpoint, f"{prefix}blobs/{blob.name}", blob)
            else:
                await read(channel, f"{prefix}blobs/{blob.name}", blob)
            times.append(time.perf_counter())
    rates = [blob.size_bytes / (end - begun) / 1e6 for begun, end in itertools.pairwise(times)]
    return Rates(write=rates[0], read=rates[1], read_again=rates[3])


async def write(channel: grpc.aio.Channel, name: str, blob: Blob) -> None:
    """Upload *blob*; *name* is the whole resource name.

    Raises:
        RuntimeError: another number of bytes was committed.
    """
    method: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(WRITE.path)
    call = method(timeout=_TIMEOUT_SECONDS)
    for start, chunk in blob.chunks():
        end = start + len(chunk)
        fields = bs.WriteRequest(
            resource_name=name if start == 0 else "", write_offset=start, finish_write=end == blob.size_bytes
        )
        await call.write(b"".join((fields.SerializeToString(), _DATA_TAG, varint(len(chunk)), chunk)))
    await call.done_writing()
    committed = bs.WriteResponse.FromString(await call).committed_size
    if committed != blob.size_bytes:
        raise RuntimeError(f"{committed} of {blob.size_bytes} bytes were committed")


async def read(channel: grpc.aio.Channel, name: str, blob: Blob, *, bytes_per_second: float | None = None) -> None:
    """Download *blob*, no faster than *bytes_per_second*; *name* is the whole resource name.

    Raises:
        RuntimeError: another number of bytes came.
    """
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(READ.path)
    received = 0
    begun = time.monotonic()
    async for message in method(bs.ReadRequest(resource_name=name).SerializeToString(), timeout=_TIMEOUT_SECONDS):
        received += _data_bytes(message)
        if bytes_per_second is not None:
            await asyncio.sleep(begun + received / bytes_per_second - time.monotonic())
    if received != blob.size_bytes:
        raise RuntimeError(f"{received} of {blob.size_bytes} bytes came")


async def _read_by_curl(endpoint: str, name: str, blob: Blob) -> None:
    """As ``read``, by a client in C, which leaves the processor to the server."""
    message = bs.ReadRequest(resource_name=name).SerializeToString()
    request = b"\0" + len(message).to_bytes(4) + message
    command = [
        CURL or "curl",
        "--silent",
        "--show-error",
        "--http2-prior-knowledge",
        "--max-time",
        str(_TIMEOUT_SECONDS),
    ]
    command += ["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-"]
    command += ["--output", os.devnull, "--write-out", "%{size_download}"]
    host = endpoint
    if endpoint.startswith("unix:"):
        command += ["--unix-socket", endpoint.removeprefix("unix:")]
        host = "localhost"
    # Not asyncio's way to start processes: it forks, which gRPC in this process does not bear.
    ended = await asyncio.to_thread(
        subprocess.run, [*command, f"http://{host}{READ.path}"], input=request, stdout=subprocess.PIPE, check=True
    )
    if int(ended.stdout) < blob.size_bytes:
        raise RuntimeError(f"{ended.stdout.decode()} of {blob.size_bytes} bytes came")


def _data_bytes(message: bytes) -> int:
    """Return how much data a serialised ReadResponse holds, which has nothing else in it."""
    length_bytes = next((index for index, byte in enumerate(message[1:11], start=1) if byte < 0x80), 0)
    return len(message) - 1 - length_bytes if message else 0
