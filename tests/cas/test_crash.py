"""A blob is there whole or not at all, whenever the process that wrote it is killed (checklist LIF-06)."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.testing.blob_store_contract import read_all
from gridwright_cas.stores.filesystem import FilesystemStore

SHA256 = DigestFunction.SHA256
ROUNDS = 6


async def test_what_is_there_after_a_kill_is_whole(tmp_path: Path) -> None:
    moments = random.Random(7)
    acknowledged: set[Digest] = set()
    for _ in range(ROUNDS):
        last = await killed_after(tmp_path, moments.randrange(1, 400))
        acknowledged.update(last)
        async with FilesystemStore.opened(tmp_path, SystemClock(), EvictionPolicy(2**40)) as store:
            assert list((tmp_path / "tmp").iterdir()) == []
            there = set(on_disk(tmp_path))
            assert await store.missing(there) == set()
            for digest in there:
                assert SHA256.digest(await read_all(store, digest)) == digest
            # What came last cannot have been evicted.
            assert await store.missing(set(last[-1:])) == set()
    assert len(acknowledged) > ROUNDS


async def killed_after(path: Path, count: int) -> list[Digest]:
    """Run the writer until it has acknowledged *count* blobs, kill it, and return these blobs in order."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cas.blob_writer", str(path), stdout=PIPE, cwd=Path(__file__).parents[2]
    )
    assert writer.stdout is not None
    acknowledged: dict[Digest, None] = {}
    async with asyncio.timeout(60):
        while len(acknowledged) < count:
            line = await writer.stdout.readline()
            assert line, "the writer ended"
            hash_, size = line.decode().strip().split("/")
            acknowledged[Digest(SHA256, hash_, int(size))] = None
        writer.kill()
        await writer.communicate()
    return list(acknowledged)


def on_disk(path: Path) -> list[Digest]:
    names = [file.name.split("-") for file in (path / "sha256").rglob("*-*")]
    return [Digest(SHA256, hash_, int(size)) for hash_, size in names]
