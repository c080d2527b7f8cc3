"""Many clients that each stream a large blob in and out at once, one of them slowly; and the memory that this takes."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc
import uvloop

from bench.bytestream import Blob, read, write
from bench.cas_process import INSTANCE, CasProcess, content_path, own_cas
from bench.disk_usage import disk_usage
from bench.report import print_table

#: How fast the slow client reads.
_SLOW_BYTES_PER_SECOND = 1e6
_LOOK_EVERY_SECONDS = 0.05
_MIB = 2**20
#: Each client has a connection of its own, as clients on as many machines would have.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 * _MIB))


@dataclass(frozen=True, slots=True)
class Streams:
    """How many clients there are, and what each of them sends and receives."""

    clients: int
    #: Of each blob.
    size_bytes: int
    #: Of each message.
    chunk_bytes: int
    #: Among which the clients are spread, but for the slow one.
    processes: int


class _Client(NamedTuple):
    """The blob that a client writes before the clock starts and then reads, and the one that it writes meanwhile."""

    first: Blob
    second: Blob


class _Ended(NamedTuple):
    """When the clients of one process had written all, and read all, by the clock that all processes share."""

    written: float = 0.0
    read: float = 0.0


@dataclass(slots=True)
class _Memory:
    """The anonymous memory of a process: before anything was asked of it, and at most."""

    before_bytes: int
    peak_bytes: int = 0


async def bench_cas_streams(data: Path, stores: Sequence[str], streams: Streams) -> None:
    """Let the clients stream to and from each of *stores*; print rates, memory and disk."""
    rows = []
    for store in stores:
        with tempfile.TemporaryDirectory(prefix=f"{store}-", dir=data) as directory:
            async with own_cas(Path(directory), store, max_bytes=4 * streams.clients * streams.size_bytes) as cas:
                async with _watched(cas) as memory:
                    rates = await _stream_all(cas.endpoint, streams)
                rows.append(
                    {
                        "store": store,
                        **rates,
                        "RssAnon MB before": f"{memory.before_bytes / 1e6:.0f}",
                        "at most": f"{memory.peak_bytes / 1e6:.0f}",
                        "after": f"{cas.anonymous_bytes() / 1e6:.0f}",
                        "on disk MiB": f"{disk_usage(content_path(Path(directory))) / _MIB:.0f}",
                    }
                )
    size = f"{streams.size_bytes / _MIB:.0f} MiB in messages of {streams.chunk_bytes / 1024:.0f} KiB"
    print_table(f"{streams.clients} clients, each writing one blob and reading another at once, {size}", rows)


@asynccontextmanager
async def _watched(cas: CasProcess) -> AsyncIterator[_Memory]:
    memory = _Memory(before_bytes=cas.anonymous_bytes())

    async def watch() -> None:
        while True:
            memory.peak_bytes = max(memory.peak_bytes, cas.anonymous_bytes())
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    watcher = asyncio.create_task(watch())
    try:
        yield memory
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _stream_all(endpoint: str, streams: Streams) -> dict[str, str]:
    """Have every client write a blob; then, all at the same time, each reads it and writes another one.

    The slow client is one of this process. It writes as the others do, and reads for as long as they run.

    Raises:
        RuntimeError: a blob was not kept, or did not come, as a whole.
    """
    loop = asyncio.get_running_loop()
    others = streams.clients - 1
    with ProcessPoolExecutor(streams.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        counts = [len(range(first, others, streams.processes)) for first in range(streams.processes)]
        making = [loop.run_in_executor(pool, _make_blobs, streams, count) for count in counts]
        own = await asyncio.to_thread(_make_blobs, streams, 1)
        shares = await asyncio.gather(*making)
        await asyncio.gather(
            _write_first(endpoint, own),
            *(loop.run_in_executor(pool, _run, _write_first, endpoint, one) for one in shares),
        )
        begun = time.monotonic()
        reader = asyncio.create_task(_read_slowly(endpoint, own[0].first))
        ends = await asyncio.gather(
            _write_second(endpoint, own), *(loop.run_in_executor(pool, _run, _stream, endpoint, one) for one in shares)
        )
        if reader.done():
            reader.result()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    return {
        "in MB/s": _rate(streams.clients * streams.size_bytes, max(end.written for end in ends) - begun),
        "out MB/s": _rate(others * streams.size_bytes, max(end.read for end in ends) - begun),
    }


def _make_blobs(streams: Streams, clients: int) -> Sequence[_Client]:
    def blob() -> Blob:
        return Blob(streams.size_bytes, streams.chunk_bytes)

    return [_Client(blob(), blob()) for _ in range(clients)]


def _run(
    work: Callable[[str, Sequence[_Client]], Coroutine[None, None, _Ended]], endpoint: str, clients: Sequence[_Client]
) -> _Ended:
    """Do the *work* of some clients in a process of theirs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(endpoint, clients))


async def _write_first(endpoint: str, clients: Sequence[_Client]) -> _Ended:
    await asyncio.gather(*(_write(endpoint, client.first) for client in clients))
    return _Ended(written=time.monotonic())


async def _write_second(endpoint: str, clients: Sequence[_Client]) -> _Ended:
    await asyncio.gather(*(_write(endpoint, client.second) for client in clients))
    return _Ended(written=time.monotonic())


async def _read_first(endpoint: str, clients: Sequence[_Client]) -> _Ended:
    await asyncio.gather(*(_read(endpoint, client.first) for client in clients))
    return _Ended(read=time.monotonic())


async def _stream(endpoint: str, clients: Sequence[_Client]) -> _Ended:
    writing, reading = await asyncio.gather(_write_second(endpoint, clients), _read_first(endpoint, clients))
    return _Ended(writing.written, reading.read)


async def _read_slowly(endpoint: str, blob: Blob) -> None:
    while True:
        await _read(endpoint, blob, bytes_per_second=_SLOW_BYTES_PER_SECOND)


async def _write(endpoint: str, blob: Blob) -> None:
    async with grpc.aio.insecure_channel(endpoint, options=_OPTIONS) as channel:
        await write(channel, f"{INSTANCE}/uploads/{uuid.uuid4()}/blobs/{blob.name}", blob)


async def _read(endpoint: str, blob: Blob, *, bytes_per_second: float | None = None) -> None:
    async with grpc.aio.insecure_channel(endpoint, options=_OPTIONS) as channel:
        await read(channel, f"{INSTANCE}/blobs/{blob.name}", blob, bytes_per_second=bytes_per_second)


def _rate(size_bytes: int, seconds: float) -> str:
    return f"{size_bytes / seconds / 1e6:.0f}"
