"""What a segment store finds out comes to the log, to readiness, and to the end of a process that cannot go on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import lmdb
import pytest
from structlog.testing import capture_logs

from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.errors import BlobNotFound, Unavailable
from gridwright.wire.process import Process
from gridwright_cas import segment_watch
from gridwright_cas.segment_watch import watching
from gridwright_cas.stores.segments import engine as engine_module
from gridwright_cas.stores.segments.store import SegmentStore
from tests.cas.maintained import flip_byte_of
from tests.cas.segments.segment_stores import opened_store


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_watch, "_LOOK_SECONDS", 0.01)


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[tuple[SegmentStore, Process]]:
    process = Process()
    process.readiness.ready = True
    async with opened_store(path, SystemClock()) as store, watching([store.engine], process):
        yield store, process


async def test_a_blob_that_has_rotted_is_a_line_in_the_log(tmp_path: Path) -> None:
    blob = os.urandom(1_000)
    digest = DigestFunction.SHA256.digest(blob)
    async with opened_store(tmp_path, SystemClock()) as store:
        await store.put_many({digest: blob})
    flip_byte_of(tmp_path, digest)
    with capture_logs() as lines:
        async with watched(tmp_path) as (store, _):
            assert isinstance((await store.get_many([digest]))[digest], BlobNotFound)
    (line,) = [line for line in lines if "rotted" in line["event"]]
    assert line["digest"] == str(digest)
    assert line["file"] == str(tmp_path / "segments" / "1")
    assert Path(line["kept_as"]).parent == tmp_path / "quarantine"
    assert line["log_level"] == "error"


async def test_a_process_whose_index_has_given_up_ends(tmp_path: Path) -> None:
    async with watched(tmp_path) as (store, process):
        assert process.readiness.trouble() is None
        environment, store.engine.index.environment = store.engine.index.environment, _Panicked()  # type: ignore[assignment]
        digest = DigestFunction.SHA256.digest(b"a blob")
        with pytest.raises(Unavailable):
            await store.missing({digest})
        async with asyncio.timeout(10):
            await process.stopping.wait()
        assert "PANIC" in (process.fault or "")
        assert "PANIC" in (process.readiness.trouble() or "")
        store.engine.index.environment = environment


async def test_a_file_system_of_which_nothing_is_known_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "file_system_of", lambda path: "fuse.something")
    with capture_logs() as lines:
        async with watched(tmp_path):
            pass
    assert [line["directory"] for line in lines if line["log_level"] == "warning"] == [str(tmp_path)]


class _Panicked:
    """What LMDB is like once it could not write a page that makes a transaction valid."""

    def begin(self, **_: object) -> None:
        error = lmdb.PanicError("MDB_PANIC: Update of meta page failed or environment had fatal error")
        object.__setattr__(error, "code", -30795)
        raise error
