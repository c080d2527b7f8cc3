"""A process that keeps blobs until it is killed: prints the digest of each once the store has it.

Run by ``test_crash.py`` as ``python -m tests.cas.blob_writer DIRECTORY``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import CHUNK_BYTES
from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.testing.blob_store_contract import chunks_of
from gridwright_cas.stores.filesystem import FilesystemStore
from gridwright_cas.stores.verified import VerifiedStore

_SIZES = (1, 5_000, 70_000, CHUNK_BYTES + 1, 3 * CHUNK_BYTES)


async def write_for_ever(path: Path) -> None:
    """Write blobs of all sizes, several at a time, alone and in bulk."""
    async with FilesystemStore.opened(path, SystemClock(), EvictionPolicy(64 * CHUNK_BYTES)) as leaf:
        store = VerifiedStore(leaf)

        async def one_by_one() -> None:
            while True:
                for size in _SIZES:
                    data = os.urandom(size)
                    digest = DigestFunction.SHA256.digest(data)
                    await store.put(digest, chunks_of(data))
                    print(digest, flush=True)

        async def in_bulk() -> None:
            while True:
                blobs = {DigestFunction.SHA256.digest(data): data for data in map(os.urandom, [900] * 50)}
                await store.put_many(blobs)
                print(*blobs, sep="\n", flush=True)

        await asyncio.gather(one_by_one(), one_by_one(), in_bulk())


if __name__ == "__main__":
    asyncio.run(write_for_ever(Path(sys.argv[1])))
