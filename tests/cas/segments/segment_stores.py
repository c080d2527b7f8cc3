"""Segment stores as these tests open them, and what they serve."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import BlobStore
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound
from gridwright.testing.blob_store_contract import read_all
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.store import SegmentStore
from tests.cas.segments.volatile_disk import VolatileDisk

MIB = 2**20
#: See ``make_files_of_small_blobs``.
LARGE_BYTES = 64 * 1024


def opened_store(
    path: Path,
    clock: Clock,
    *,
    max_bytes: int = 1024 * MIB,
    disk: Disk | None = None,
    durable: bool = True,
    scrub_bytes_per_second: int = 0,
) -> AbstractAsyncContextManager[SegmentStore]:
    """Open a store; one that is only looked into need not be *durable*."""
    settings = SegmentSettings(
        EvictionPolicy(max_bytes=max_bytes), durable=durable, scrub_bytes_per_second=scrub_bytes_per_second
    )
    return SegmentStore.opened(path, clock, settings, disk=disk)


def make_files_of_small_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blobs of more than LARGE_BYTES be files of their own, so that a test need not write megabytes."""
    for module in ("store", "uploader", "resumable"):
        monkeypatch.setattr(f"gridwright_cas.stores.segments.{module}.MAX_PAYLOAD_BYTES", LARGE_BYTES)


def report_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each ``VolatileDisk`` hear when the index below it is synchronised: LMDB does its own I/O."""
    sync = Index.sync

    def reported(index: Index) -> None:
        sync(index)
        for disk in VolatileDisk.all():
            disk.environment_synced(Path(index.environment.path()))

    monkeypatch.setattr(Index, "sync", reported)


async def served(store: BlobStore, digests: Collection[Digest]) -> dict[Digest, bytes]:
    """Return the blobs of *digests* that the store has, by all three ways to ask, which must agree."""
    asked = list(digests)
    missing = await store.missing(set(asked))
    found = await store.get_many(asked)
    there: dict[Digest, bytes] = {}
    for digest in asked:
        blob = found[digest]
        if digest in missing:
            assert isinstance(blob, BlobNotFound), f"{digest} is missing, but {blob!r:.200}"
            continue
        assert isinstance(blob, bytes), f"{digest} is not missing, but {blob!r:.200}"
        assert digest.function.digest(blob) == digest, f"{digest} has wrong bytes"
        assert await read_all(store, digest) == blob
        there[digest] = blob
    return there


def disk_bytes(path: Path) -> int:
    """Return what ``du`` says."""
    total = 0
    for directory, _, files in os.walk(path):
        for name in (".", *files):
            try:
                total += os.stat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
