"""Kill -9 at random moments, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, field
from pathlib import Path

from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound
from gridwright.testing.blob_store_contract import read_all
from tests.cas.segments.segment_stores import opened_store

_ROOT = Path(__file__).parents[3]
_BATCH = 1_000


@dataclass
class Killed:
    """What a process said before it was killed."""

    #: In the order in which the store said that it has them.
    acknowledged: list[Digest] = field(default_factory=list)
    #: How long it took to open the store; None: it was killed before it had.
    ready_seconds: float | None = None


async def killed(path: Path, max_bytes: int, chance: random.Random) -> Killed:
    """Run a writer and kill it at a random moment: most often under load, sometimes while it opens the store."""
    writer = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "tests.cas.segments.blob_writer",
            str(path),
            str(max_bytes),
            str(chance.getrandbits(32)),
        ),
        stdout=PIPE,
        stderr=PIPE,
        cwd=_ROOT,
    )
    assert writer.stdout is not None
    async with asyncio.timeout(60):
        said = [await writer.stdout.readline()]
        if chance.random() < 0.8:
            said.append(await writer.stdout.readline())
            moment = chance.uniform(0, 0.5)
        else:
            moment = chance.uniform(0, 0.02)
        output, errors = await _killed_after(writer, moment)
    assert not errors, errors.decode()
    return _understood(b"".join(said) + output)


async def _killed_after(writer: Process, seconds: float) -> tuple[bytes, bytes]:
    """Kill the process, whatever it is at; what it says meanwhile is read, or it would wait for its reader."""
    asyncio.get_running_loop().call_later(seconds, writer.kill)
    return await writer.communicate()


def _understood(output: bytes) -> Killed:
    result = Killed()
    for line in output[: output.rfind(b"\n") + 1].decode().splitlines():
        match line.split():
            case ["opening"]:
                pass
            case ["ready", seconds]:
                result.ready_seconds = float(seconds)
            case [digest]:
                hash_, size = digest.split("/")
                result.acknowledged.append(Digest(DigestFunction.SHA256, hash_, int(size)))
    return result


async def found(path: Path, max_bytes: int, digests: list[Digest]) -> set[Digest]:
    """Open the store and return those of *digests* that it has; each must have the right bytes."""
    there: set[Digest] = set()
    async with opened_store(path, SystemClock(), max_bytes=max_bytes) as store:
        small = [digest for digest in digests if digest.size_bytes < 2**20]
        for start in range(0, len(small), _BATCH):
            batch = small[start : start + _BATCH]
            missing = await store.missing(set(batch))
            blobs = await store.get_many(batch)
            for digest in batch:
                blob = blobs[digest]
                assert isinstance(blob, bytes if digest not in missing else BlobNotFound), blob
                if isinstance(blob, bytes):
                    assert DigestFunction.SHA256.digest(blob) == digest
                    there.add(digest)
        for digest in set(digests).difference(small):
            if not await store.missing({digest}):
                assert DigestFunction.SHA256.digest(await read_all(store, digest)) == digest
                there.add(digest)
    return there
