"""A store of millions of blobs: how soon it is ready, how fast it finds them, and what memory that takes.

The index is made here, since to upload so much takes an hour; there are no segments behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.batches import BLOBS_PER_BATCH, Batches
from bench.cas_process import INSTANCE, content_path, own_cas
from bench.client_processes import Share, run_clients
from bench.report import print_table
from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from gridwright.wire.digests import digest_message
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.row import Row, SegmentState, pack_row

_BLOB_BYTES = 1024
_RECORD_BYTES = 1152
_RECORDS_PER_SEGMENT = 200_000
_ROWS_PER_TRANSACTION = 100_000
_LOOKUPS = 1_000_000
_IN_FLIGHT = 4
_MIB = 2**20


async def bench_cas_open(data: Path, *, rows: int, repeat: int) -> None:
    """Start a CAS *repeat* times on an index of *rows* blobs, and ask it for a million of them; print the medians."""
    with tempfile.TemporaryDirectory(prefix="open-", dir=data) as directory:
        await asyncio.to_thread(_make_index, content_path(Path(directory)), rows)
        ready, rates, anonymous = [], [], []
        for run in range(repeat):
            async with own_cas(Path(directory), "segments", scrub=False) as cas:
                ready.append(cas.ready_seconds)
                known = Known(INSTANCE, seed=run, batches=_LOOKUPS // BLOBS_PER_BATCH, rows=rows)
                share = Share(cas.endpoint, known, known.batches, _IN_FLIGHT, float("inf"))
                rates.append((await run_clients([share])).per_second * BLOBS_PER_BATCH)
                anonymous.append(cas.anonymous_bytes())
    row = {
        "blobs": f"{rows:,}",
        "ready s": f"{statistics.median(ready):.2f}",
        "look-ups/s": f"{statistics.median(rates):,.0f}",
        "RssAnon MiB": f"{statistics.median(anonymous) / _MIB:.0f}",
    }
    title = f"Opening a store of segments, then {_LOOKUPS:,} random look-ups, {BLOBS_PER_BATCH} in a call"
    print_table(f"{title} (median of {repeat})", [row])


@dataclass(frozen=True, slots=True)
class Known(Batches):
    """FindMissingBlobs of random blobs of a made index."""

    instance: str
    seed: int
    batches: int
    rows: int

    @property
    def path(self) -> str:
        return rpc.FIND_MISSING_BLOBS.path

    def requests(self) -> Sequence[bytes]:
        numbers = random.Random(self.seed)
        return [
            pb.FindMissingBlobsRequest(
                instance_name=self.instance,
                blob_digests=[
                    digest_message(_digest(numbers.randrange(self.rows), self.rows)) for _ in range(BLOBS_PER_BATCH)
                ],
            ).SerializeToString()
            for _ in range(self.batches)
        ]

    def check(self, answer: bytes) -> None:
        if missing := pb.FindMissingBlobsResponse.FromString(answer).missing_blob_digests:
            raise RuntimeError(f"the CAS has lost {len(missing)} of {BLOBS_PER_BATCH} blobs")


def _digest(number: int, rows: int) -> Digest:
    """Return the digest of blob *number* of *rows*: they are in order, so that the index can be made quickly."""
    first = (number * 2**64 // rows).to_bytes(8)
    return Digest(DigestFunction.SHA256, (first + hashlib.sha256(first).digest()[8:]).hex(), _BLOB_BYTES)


def _make_index(path: Path, rows: int) -> None:
    path.mkdir(parents=True)
    index = Index.open(path / "index", SystemDisk(), durable=False)
    now_ms = int(time.time() * 1000)
    try:
        for start in range(0, rows, _ROWS_PER_TRANSACTION):
            items = [
                (key_of(_digest(number, rows)), _row(number, now_ms))
                for number in range(start, min(start + _ROWS_PER_TRANSACTION, rows))
            ]
            with index.writing() as txn, txn.cursor() as cursor:
                cursor.putmulti(items, append=True)
        with index.writing() as txn:
            for segment in range(1, -(-rows // _RECORDS_PER_SEGMENT) + 1):
                state = SegmentState(
                    end=_RECORDS_PER_SEGMENT * _RECORD_BYTES,
                    live_bytes=_RECORDS_PER_SEGMENT * _RECORD_BYTES,
                    live_count=_RECORDS_PER_SEGMENT,
                    newest_touch_ms=now_ms,
                    created_ms=now_ms,
                    sealed_ms=now_ms,
                )
                index.segments.put(txn, index.segments.new_id(txn), state)
                assert index.segments.state(txn, segment) == state, "ids begin with 1"
        index.sync()
    finally:
        index.close()


def _row(number: int, now_ms: int) -> bytes:
    segment, place = divmod(number, _RECORDS_PER_SEGMENT)
    return pack_row(Row(now_ms, segment + 1, place * _RECORD_BYTES, _BLOB_BYTES))
