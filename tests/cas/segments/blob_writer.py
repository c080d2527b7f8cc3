"""A process that keeps blobs until it is killed: prints the digest of each once the store has it.

Run by ``killing.py`` as ``python -m tests.cas.segments.blob_writer DIRECTORY MAX_BYTES SEED``.
Its first line is ``opening``, its second one ``ready`` and how many seconds that took.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound
from gridwright.testing.blob_store_contract import chunks_of, read_all
from tests.cas.segments.segment_stores import opened_store

_SMALL = (1, 900, 4_096, 70_000, CHUNK_BYTES - 1, CHUNK_BYTES)
_LARGE = (CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 5 * CHUNK_BYTES + 17)


async def write_for_ever(path: Path, max_bytes: int, seed: int) -> None:
    """Write blobs of all sizes, several at a time, alone and in bulk; read and touch some of them."""
    chance = random.Random(seed)
    print("opening", flush=True)
    begun = time.monotonic()
    async with opened_store(path, SystemClock(), max_bytes=max_bytes) as store:
        print("ready", time.monotonic() - begun, flush=True)
        kept: list[Digest] = []

        async def one_by_one(sizes: tuple[int, ...]) -> None:
            while True:
                data = chance.randbytes(chance.choice(sizes))
                digest = DigestFunction.SHA256.digest(data)
                await store.put(digest, chunks_of(data))
                print(digest, flush=True)
                kept.append(digest)

        async def in_bulk() -> None:
            while True:
                blobs = {DigestFunction.SHA256.digest(data): data for data in map(chance.randbytes, [900] * 200)}
                refused = {digest: error for digest, error in (await store.put_many(blobs)).items() if error}
                assert not refused, refused
                print(*blobs, sep="\n", flush=True)
                kept.extend(blobs)

        async def read_and_touch() -> None:
            while True:
                some = chance.sample(kept, min(20, len(kept)))
                there = set(some) - await store.missing(set(some))
                for digest in some[:3]:
                    try:
                        right = DigestFunction.SHA256.digest(await read_all(store, digest)) == digest
                    except BlobNotFound:
                        continue
                    assert right, f"wrong bytes for {digest}"
                await asyncio.sleep(0 if there else 0.01)

        await asyncio.gather(
            one_by_one(_SMALL), one_by_one(_SMALL), one_by_one(_LARGE), in_bulk(), in_bulk(), read_and_touch()
        )


if __name__ == "__main__":
    asyncio.run(write_for_ever(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
