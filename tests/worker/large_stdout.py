"""Run an action that writes 100 MB to stdout; print by how much this process grew. Run by test_execution.py."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterable
from pathlib import Path

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import Digest
from tests.worker.actions import make_bench


class ForgetfulStore(MemoryStore):
    """Takes streams, and counts them only."""

    taken_bytes = 0

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        async for chunk in chunks:
            self.taken_bytes += len(chunk)


async def main(directory: Path) -> None:
    store = ForgetfulStore(max_bytes=2**20)
    bench = make_bench(directory, store=store)
    await bench.cache.open()
    await bench.execute("true")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = await bench.execute("head -c 100000000 /dev/zero")
    assert store.taken_bytes == done.result.stdout_digest.size_bytes
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"stdout_bytes": store.taken_bytes, "grown_mib": grown_kib / 1024}))
    await bench.executor.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
