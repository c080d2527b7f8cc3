"""Five times as much as fits: whether the disk holds no more than it may, and whether what is used stays."""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.cas_process import INSTANCE, content_path, own_cas
from bench.disk_usage import disk_usage
from bench.report import print_table
from gridwright.blobs.remote import RemoteStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted
from gridwright.wire.grpc_channel import GrpcChannel

_TIMES = 5
_SMALL_BYTES = 4096
_SMALL_BLOBS = 500
_LARGE_BYTES = 8 * 2**20
#: One batch in so many is a large blob.
_LARGE_EVERY = 10
#: The first batches are asked for again and again, once in so many batches.
_USED_BATCHES = 4
_USED_EVERY = 8
_LOOK_EVERY_SECONDS = 0.05
_TRY_AGAIN_SECONDS = 0.2
_ROOM_SECONDS = 60.0
_MIB = 2**20


@dataclass(slots=True)
class _Seen:
    """What `du` said at most."""

    bytes: int = 0
    looks: int = 0


@dataclass(slots=True)
class _Filling:
    """What was written, in this order."""

    batches: list[Sequence[Digest]] = field(default_factory=list)
    written_bytes: int = 0
    refusals: int = 0


async def bench_cas_fill(data: Path, stores: Sequence[str], *, capacity_bytes: int) -> None:
    """Write five times *capacity_bytes* to each of *stores*, which is all that it may take; print what is left."""
    rows = []
    for store in stores:
        with tempfile.TemporaryDirectory(prefix=f"{store}-", dir=data) as directory:
            async with (
                own_cas(Path(directory), store, max_bytes=capacity_bytes) as cas,
                GrpcChannel(cas.endpoint) as channel,
            ):
                remote = RemoteStore(channel, INSTANCE)
                async with _watching(content_path(Path(directory))) as seen:
                    filling = await _fill(remote, capacity_bytes)
                rows.append(await _row(store, remote, filling, seen, capacity_bytes))
    print_table(f"Written to a store of {capacity_bytes / _MIB:.0f} MiB: {_TIMES} times as much", rows)


async def _fill(remote: RemoteStore, capacity_bytes: int) -> _Filling:
    filling = _Filling()
    source = random.Random(0)
    while filling.written_bytes < _TIMES * capacity_bytes:
        if len(filling.batches) % _LARGE_EVERY == _LARGE_EVERY - 1:
            sizes = [_LARGE_BYTES]
        else:
            sizes = [_SMALL_BYTES] * _SMALL_BLOBS
        blobs = {DigestFunction.SHA256.digest(blob): blob for blob in map(source.randbytes, sizes)}
        await _put(remote, blobs, filling)
        filling.batches.append(list(blobs))
        filling.written_bytes += sum(sizes)
        if len(filling.batches) % _USED_EVERY == 0:
            await remote.missing({digest for batch in filling.batches[:_USED_BATCHES] for digest in batch})
    return filling


async def _put(remote: RemoteStore, blobs: Mapping[Digest, bytes], filling: _Filling) -> None:
    """Keep *blobs*; a store that has no room yet is asked again, as clients do.

    Raises:
        ResourceExhausted: it does not make room.
    """
    left = dict(blobs)
    give_up = time.monotonic() + _ROOM_SECONDS
    while time.monotonic() < give_up:
        errors = await remote.put_many(left)
        left = {digest: blobs[digest] for digest, error in errors.items() if error is not None}
        if not left:
            return
        filling.refusals += 1
        await asyncio.sleep(_TRY_AGAIN_SECONDS)
    raise ResourceExhausted(f"there was no room for {len(left)} blobs within {_ROOM_SECONDS:.0f} s")


async def _row(store: str, remote: RemoteStore, filling: _Filling, seen: _Seen, capacity_bytes: int) -> dict[str, str]:
    missing = await remote.missing({digest for batch in filling.batches for digest in batch})
    used = [digest for batch in filling.batches[:_USED_BATCHES] for digest in batch]
    others = [digest for batch in filling.batches[_USED_BATCHES:] for digest in batch]
    kept = [number for number, digest in enumerate(others) if digest not in missing]
    evicted = [number for number, digest in enumerate(others) if digest in missing]
    return {
        "store": store,
        "du at most": f"{seen.bytes / capacity_bytes:.1%}",
        "looks": f"{seen.looks}",
        "refused": f"{filling.refusals}",
        "used blobs kept": f"{sum(digest not in missing for digest in used) / len(used):.1%}",
        "others kept": f"{len(kept) / len(others):.1%}",
        # In the order of their upload: 0 % was first.
        "oldest kept": f"{min(kept, default=0) / len(others):.1%}",
        "youngest evicted": f"{max(evicted, default=0) / len(others):.1%}",
    }


@asynccontextmanager
async def _watching(path: Path) -> AsyncIterator[_Seen]:
    """Look all the time, while the block runs, how much *path* takes on the disk."""
    seen = _Seen()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_EVERY_SECONDS):
            seen.bytes = max(seen.bytes, disk_usage(path))
            seen.looks += 1

    watching = asyncio.create_task(asyncio.to_thread(watch))
    try:
        yield seen
    finally:
        done.set()
        await watching
