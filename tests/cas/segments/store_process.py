"""A process with a segment store, told what to do line by line: ``put SEED COUNT SIZE``, ``check SEED COUNT SIZE``.

Run as ``python -m tests.cas.segments.store_process DIRECTORY``; says ``ready`` when it is. The blobs
follow from the seed, so that two processes mean the same ones. ``put`` is answered by ``ok``,
``check`` by how many of the blobs are there, with the right bytes. It ends with its input.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from tests.cas.segments.segment_stores import opened_store


def blobs_of(seed: str, count: int, size: int) -> dict[Digest, bytes]:
    """Return the blobs that a line means."""
    chance = random.Random(seed)
    return {DigestFunction.SHA256.digest(data): data for data in (chance.randbytes(size) for _ in range(count))}


async def serve(path: Path) -> None:
    """Do what the lines say."""
    async with opened_store(path, SystemClock()) as store:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, seed, count, size = line.split()
            blobs = blobs_of(seed, int(count), int(size))
            if what == "put":
                errors = [error for error in (await store.put_many(blobs)).values() if error]
                print(errors or "ok", flush=True)
                continue
            missing = await store.missing(set(blobs))
            found = await store.get_many(blobs)
            print(sum(found[digest] == blob and digest not in missing for digest, blob in blobs.items()), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
