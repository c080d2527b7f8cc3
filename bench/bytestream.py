"""One large blob, up and down."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from bench.memory import watching
from bench.report import print_memory, print_table
from bench.target import Target
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient

_TIMEOUT_SECONDS = 600.0


class _Blob:
    """A blob that no grid has seen, made again for each reading, so that it takes no memory."""

    def __init__(self, size_bytes: int, chunk_bytes: int) -> None:
        self._noise = os.urandom(chunk_bytes)
        self._size_bytes = size_bytes
        self._chunk_bytes = chunk_bytes
        sha256 = hashlib.sha256()
        for chunk in self:
            sha256.update(chunk)
        self.name = f"{sha256.hexdigest()}/{size_bytes}"

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, self._size_bytes, self._chunk_bytes):
            chunk = start.to_bytes(8) + self._noise[8:]
            yield chunk[: self._size_bytes - start]


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
                rates = [await _measure(way, _Blob(size_bytes, chunk_bytes)) for _ in range(repeat)]
                rows.append(
                    {
                        "grid": name,
                        "write MB/s": f"{statistics.median(write for write, _ in rates):.0f}",
                        "read MB/s": f"{statistics.median(read for _, read in rates):.0f}",
                    }
                )
        peaks |= seen
    size = f"{size_bytes / 2**20:.0f} MiB in messages of {chunk_bytes / 1024:.0f} KiB"
    print_table(f"ByteStream, a blob of {size} (median of {repeat})", rows)
    print_memory(peaks)


async def _measure(target: Target, blob: _Blob) -> tuple[float, float]:
    """Return the rates of writing and of reading *blob*, in MB/s."""
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(target.connect())
        stream = ByteStreamClient(channel)
        prefix = f"{target.instance}/" if target.instance else ""
        size_bytes = int(blob.name.rpartition("/")[2])

        begun = time.perf_counter()
        name = f"{prefix}uploads/{uuid.uuid4()}/blobs/{blob.name}"
        answer = await stream.write(_write_requests(name, blob, size_bytes), timeout=_TIMEOUT_SECONDS)
        write_seconds = time.perf_counter() - begun
        if answer.committed_size != size_bytes:
            raise RuntimeError(f"{target.name} committed {answer.committed_size} of {size_bytes} bytes")

        begun = time.perf_counter()
        received = 0
        request = bs.ReadRequest(resource_name=f"{prefix}blobs/{blob.name}")
        async for response in stream.read(request, timeout=_TIMEOUT_SECONDS):
            received += len(response.data)
        read_seconds = time.perf_counter() - begun
        if received != size_bytes:
            raise RuntimeError(f"{target.name} sent {received} of {size_bytes} bytes")
    return size_bytes / write_seconds / 1e6, size_bytes / read_seconds / 1e6


async def _write_requests(name: str, blob: _Blob, size_bytes: int) -> AsyncIterator[bs.WriteRequest]:
    offset = 0
    for chunk in blob:
        end = offset + len(chunk)
        yield bs.WriteRequest(
            resource_name=name if offset == 0 else "", write_offset=offset, data=chunk, finish_write=end == size_bytes
        )
        offset = end
