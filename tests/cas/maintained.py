"""Stores to be looked after, and what the commands that do so say."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.testing.blob_store_contract import chunks_of
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory, open_directory
from gridwright_cas.stores.codecs import Codec
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.record import HEADER_BYTES
from gridwright_cas.stores.segments.store import SegmentStore

SHA256 = DigestFunction.SHA256
#: Segments of 2 MiB.
MAX_BYTES = 128 * 2**20
LARGE = os.urandom(1_700_017)
#: What a command does with a directory.
Command = Callable[[OpenDirectory, Messages, Stop], None]


def small_blobs(count: int, size: int = 1_000) -> dict[Digest, bytes]:
    """Return so many different blobs."""
    return {SHA256.digest(blob): blob for blob in (os.urandom(size) for _ in range(count))}


async def fill(
    path: Path, blobs: Mapping[Digest, bytes], codec: Codec | None = None, *, max_bytes: int = MAX_BYTES
) -> None:
    """Put *blobs* into the store in *path*, as a service does that has a ``compression`` store if there is a codec."""
    settings = SegmentSettings(EvictionPolicy(max_bytes=max_bytes))
    async with SegmentStore.opened(path, SystemClock(), settings) as segments:
        store = segments if codec is None else CompressedStore(segments, codec)
        for digest, blob in blobs.items():
            if len(blob) > 2**20:
                await store.put(digest, chunks_of(blob))
        kept = await store.put_many({digest: blob for digest, blob in blobs.items() if len(blob) <= 2**20})
        assert not any(kept.values())


async def kept_in(path: Path, digests: Iterable[Digest]) -> set[Digest]:
    """Return those of *digests* that a service finds in *path*, once it is started again; each is read."""
    settings = SegmentSettings(EvictionPolicy(max_bytes=MAX_BYTES))
    asked = set(digests)
    async with SegmentStore.opened(path, SystemClock(), settings) as store:
        found = await store.get_many(asked)
        return {
            digest for digest in asked if isinstance(blob := found[digest], bytes) and SHA256.digest(blob) == digest
        }


def said_by(path: Path, command: Command, stop: Stop | None = None) -> list[dict[str, Any]]:
    """Run *command* on the store in *path*; return what it says, but for its progress."""
    text = io.StringIO()
    with open_directory(path) as directory:
        command(directory, Messages(text), stop or Stop())
    messages = [json.loads(line) for line in text.getvalue().splitlines()]
    return [message for message in messages if "progress" not in message]


def result_of(path: Path, command: Command) -> dict[str, Any]:
    """Run *command* on the store in *path*; return its result."""
    result: dict[str, Any] = said_by(path, command)[-1]["result"]
    return result


def flip_byte_of(path: Path, digest: Digest) -> None:
    """Let one byte of a blob that is kept in *path* rot."""
    with open_directory(path) as directory:
        row = directory.engine.index.row_of(key_of(digest))
        assert row is not None
        engine = directory.engine
        file = engine.large_files.path_of(row.offset) if row.is_large else engine.directory.path_of(row.segment)
    _flip(file, 1_500_000 if row.is_large else row.offset + HEADER_BYTES + len(key_of(digest)))


def _flip(file: str, offset: int) -> None:
    with open(file, "r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte[0] ^ 1]))
