"""One large blob, up and down, at one CAS process; and what the disk does of itself in the same run."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.bytestream import Blob, described, rate_cells, write_and_read
from bench.cas_process import INSTANCE, own_cas
from bench.report import print_table

_MIB = 2**20


async def bench_cas_bytestream(
    data: Path, stores: Sequence[str], *, size_bytes: int, chunk_bytes: int, repeat: int
) -> None:
    """Write and read a new blob with each of *stores*, by turns with `dd`; print the medians."""
    rows = []
    disk: list[float] = []
    for store in stores:
        with tempfile.TemporaryDirectory(prefix=f"{store}-", dir=data) as directory:
            async with own_cas(Path(directory), store) as cas:
                rates = []
                for _ in range(repeat):
                    disk.append(await asyncio.to_thread(_dd, Path(directory) / "dd", size_bytes))
                    rates.append(await write_and_read(cas.endpoint, INSTANCE, Blob(size_bytes, chunk_bytes)))
                rows.append({"store": store, **rate_cells(rates), "RssAnon MiB": f"{cas.anonymous_bytes() / _MIB:.0f}"})
    rows.append({"store": "dd conv=fdatasync", "write MB/s": f"{statistics.median(disk):.0f}"})
    print_table(f"ByteStream at the CAS itself, {described(size_bytes, chunk_bytes)} (median of {repeat})", rows)


def _dd(path: Path, size_bytes: int) -> float:
    """Return the rate at which this disk takes so much and has it for good, in MB/s."""
    copy = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size_bytes // _MIB}", "conv=fdatasync"]
    begun = time.perf_counter()
    subprocess.run(copy, check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    path.unlink()
    return size_bytes / seconds / 1e6
