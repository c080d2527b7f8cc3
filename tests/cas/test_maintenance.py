"""What can be done to a store's directory without its service: nothing that is whole may suffer."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound, ConfigurationError, InvalidRequest, ResourceExhausted
from gridwright_cas.maintenance import compaction
from gridwright_cas.maintenance.compaction import Compaction
from gridwright_cas.maintenance.listing import ls
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.removal import rm
from gridwright_cas.maintenance.statistics import stats
from gridwright_cas.maintenance.stopping import Stop, Stopped
from gridwright_cas.maintenance.store_directory import OpenDirectory, find_store, settings_of
from gridwright_cas.maintenance.transfer import get, put
from gridwright_cas.maintenance.verification import Verification
from gridwright_cas.stores.codecs import Codec, Lz4Codec, ZstdCodec
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.housekeeper import try_to_keep_house
from gridwright_cas.stores.segments.room import large_holder
from tests.cas.maintained import (
    LARGE,
    MAX_BYTES,
    SHA256,
    Command,
    fill,
    flip_byte_of,
    kept_in,
    result_of,
    said_by,
    small_blobs,
)

LARGE_DIGEST = SHA256.digest(LARGE)


def verify(*, repair: bool = False) -> Command:
    return lambda directory, messages, stop: Verification(directory, messages, stop, repair=repair).run()


def compact(live_below: int = 100) -> Command:
    return lambda directory, messages, stop: Compaction(directory, messages, stop, live_below=live_below).run()


def remove(*digests: Digest) -> Command:
    return lambda directory, messages, stop: rm(directory, messages, stop, digests)


def list_all(function: DigestFunction | None = None, prefix: str = "") -> Command:
    return lambda directory, messages, stop: ls(directory, messages, stop, function=function, prefix=prefix)


def fetch(path: Path, digest: Digest) -> bytes:
    """Return what `get` writes."""

    def into_file(directory: OpenDirectory, messages: Messages, stop: Stop) -> None:
        fd = os.open(path / "fetched", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            get(directory, messages, stop, digest, fd)
        finally:
            os.close(fd)

    said_by(path, into_file)
    return (path / "fetched").read_bytes()


def listed(path: Path, function: DigestFunction | None = None, prefix: str = "") -> list[str]:
    return [message["blob"]["digest"] for message in said_by(path, list_all(function, prefix))]


def bad_in(path: Path, *, repair: bool = False) -> dict[str, str]:
    """Return digest and fault of each blob that `verify` finds bad."""
    return {one["bad"]["digest"]: one["bad"]["why"] for one in said_by(path, verify(repair=repair)) if "bad" in one}


async def test_statistics_count_each_kind(tmp_path: Path) -> None:
    small = small_blobs(10)
    await fill(tmp_path, {**small, LARGE_DIGEST: LARGE})
    found = result_of(tmp_path, stats)
    assert found["blobs"] == 11
    assert found["small"] == {"count": 10, "bytes": 10_000}
    assert found["large"] == {"count": 1, "bytes": len(LARGE)}
    assert found["max_bytes"] == MAX_BYTES
    assert len(LARGE) < found["used_bytes"] < MAX_BYTES
    assert 0 < found["oldest_touch"] <= found["newest_touch"]
    (segment,) = found["segments"]
    assert (segment["blobs"], segment["open"]) == (10, False)
    assert 10_000 < segment["live_bytes"] < segment["bytes"]  # the record of the large blob is no live one


async def test_statistics_of_an_empty_store(tmp_path: Path) -> None:
    await fill(tmp_path, {})
    assert result_of(tmp_path, stats)["blobs"] == 0


async def test_the_list_is_complete_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_cas.maintenance.rows._ROWS", 7)
    blobs = {**small_blobs(50), LARGE_DIGEST: LARGE}
    await fill(tmp_path, blobs)
    assert listed(tmp_path) == sorted(map(str, blobs))


@pytest.mark.parametrize("digits", [1, 2, 3, 64])
async def test_a_list_of_those_that_begin_so(tmp_path: Path, digits: int) -> None:
    blobs = small_blobs(60)
    await fill(tmp_path, blobs)
    prefix = next(iter(blobs)).hash[:digits]
    assert listed(tmp_path, prefix=prefix) == sorted(str(one) for one in blobs if one.hash.startswith(prefix))


async def test_a_list_of_one_digest_function(tmp_path: Path) -> None:
    blake3 = DigestFunction.BLAKE3.digest(b"a blob")
    await fill(tmp_path, {**small_blobs(3), blake3: b"a blob"})
    assert listed(tmp_path, DigestFunction.BLAKE3) == [str(blake3)]
    assert len(listed(tmp_path)) == 4


async def test_a_sound_store_is_found_sound(tmp_path: Path) -> None:
    await fill(tmp_path, {**small_blobs(2_500), LARGE_DIGEST: LARGE})
    assert result_of(tmp_path, verify()) == {"blobs": 2_501, "bytes": 2_500_000 + len(LARGE), "bad": 0, "repaired": 0}


async def test_rot_is_named_and_hides_nothing_behind_it(tmp_path: Path) -> None:
    small = small_blobs(200)
    rotten = list(small)[::50]
    await fill(tmp_path, {**small, LARGE_DIGEST: LARGE})
    for digest in [*rotten, LARGE_DIGEST]:
        flip_byte_of(tmp_path, digest)
    assert bad_in(tmp_path) == dict.fromkeys(map(str, [*rotten, LARGE_DIGEST]), "wrong checksum")
    assert result_of(tmp_path, verify())["blobs"] == 201


async def test_other_bytes_under_a_digest_are_found_although_their_checksums_are_right(tmp_path: Path) -> None:
    wrong = Digest(SHA256, "ab" * 32, 5)
    wrong_large = Digest(SHA256, "cd" * 32, len(LARGE))
    await fill(tmp_path, {**small_blobs(5), wrong: b"other", wrong_large: LARGE})
    assert bad_in(tmp_path).keys() == {str(wrong), str(wrong_large)}


async def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    small = small_blobs(20)
    await fill(tmp_path, {**small, LARGE_DIGEST: LARGE})
    for file in [*(tmp_path / "segments").iterdir(), *(tmp_path / "large").iterdir()]:
        file.unlink()
    assert bad_in(tmp_path) == dict.fromkeys(map(str, [*small, LARGE_DIGEST]), "its file is gone")


async def test_what_the_disk_does_not_let_us_read_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_blobs(3)
    await fill(tmp_path, small)

    def read(disk: SystemDisk, fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as failing:
        failing.setattr(SystemDisk, "read", read)
        said = said_by(tmp_path, verify(repair=True))
    assert said[-1]["result"] == {"blobs": 3, "bytes": 3_000, "bad": 3, "repaired": 0}
    assert all("Input/output error" in one["bad"]["why"] for one in said[:-1])
    assert await kept_in(tmp_path, small) == small.keys()


async def test_repair_takes_out_what_is_bad_and_nothing_else(tmp_path: Path) -> None:
    small = small_blobs(100)
    await fill(tmp_path, {**small, LARGE_DIGEST: LARGE})
    rotten = {list(small)[30], LARGE_DIGEST}
    for digest in rotten:
        flip_byte_of(tmp_path, digest)
    assert bad_in(tmp_path, repair=True).keys() == set(map(str, rotten))
    assert bad_in(tmp_path) == {}
    assert await kept_in(tmp_path, [*small, LARGE_DIGEST]) == small.keys() - rotten
    assert result_of(tmp_path, stats)["quarantine"]["count"] == 2


@pytest.mark.parametrize("codec", [ZstdCodec(), Lz4Codec()], ids=["zstd", "lz4"])
async def test_compressed_blobs_are_checked_and_fetched_as_blobs(tmp_path: Path, codec: Codec) -> None:
    text = {SHA256.digest(blob): blob for blob in (b"words " * count for count in (1, 100, 50_000, 700_000))}
    blobs = {**small_blobs(10), **text, LARGE_DIGEST: LARGE}
    await fill(tmp_path, blobs, codec)
    assert bad_in(tmp_path) == {}
    for digest, blob in blobs.items():
        assert fetch(tmp_path, digest) == blob
    flip_byte_of(tmp_path, LARGE_DIGEST)
    assert bad_in(tmp_path).keys() == {str(LARGE_DIGEST)}


async def test_compaction_frees_room_and_loses_nothing(tmp_path: Path) -> None:
    blobs = {**small_blobs(6_000), LARGE_DIGEST: LARGE}
    await fill(tmp_path, blobs)
    removed = {digest for number, digest in enumerate(blobs) if number % 3 and digest != LARGE_DIGEST}
    assert result_of(tmp_path, remove(*removed))["removed"] == len(removed)
    before = result_of(tmp_path, stats)["used_bytes"]
    done = result_of(tmp_path, compact())
    assert done["blobs"] == 2_000
    assert done["damaged"] == []
    assert done["freed_bytes"] > 3_000_000
    assert result_of(tmp_path, stats)["used_bytes"] < before - 3_000_000
    assert await kept_in(tmp_path, blobs) == blobs.keys() - removed
    assert bad_in(tmp_path) == {}


async def test_compaction_leaves_full_segments_alone(tmp_path: Path) -> None:
    await fill(tmp_path, small_blobs(100))
    assert result_of(tmp_path, compact(50))["segments"] == 0


async def test_compaction_passes_over_a_damaged_record_of_a_removed_blob(tmp_path: Path) -> None:
    blobs = small_blobs(100)
    await fill(tmp_path, blobs)
    removed = list(blobs)[10]
    flip_byte_of(tmp_path, removed)
    said_by(tmp_path, remove(removed))
    assert result_of(tmp_path, compact())["segments"] == 1
    assert await kept_in(tmp_path, blobs) == blobs.keys() - {removed}


async def test_compaction_keeps_a_segment_that_has_a_damaged_blob(tmp_path: Path) -> None:
    blobs = small_blobs(100)
    await fill(tmp_path, blobs)
    removed, rotten = list(blobs)[10], list(blobs)[20]
    flip_byte_of(tmp_path, rotten)
    said_by(tmp_path, remove(removed))
    done = result_of(tmp_path, compact())
    assert (done["segments"], done["blobs"], len(done["damaged"])) == (0, 98, 1)
    assert bad_in(tmp_path).keys() == {str(rotten)}


@pytest.mark.parametrize("served", [False, True])
async def test_a_full_store_is_compacted_unless_its_service_makes_room_itself(tmp_path: Path, served: bool) -> None:
    blobs = small_blobs(100)
    await fill(tmp_path, blobs)
    said_by(tmp_path, remove(next(iter(blobs))))

    def compact_full(directory: OpenDirectory, messages: Messages, stop: Stop) -> None:
        room = directory.engine.room
        room.take(large_holder(7), room.free_bytes - 10_000)
        lock = try_to_keep_house(tmp_path) if served else None
        try:
            compact()(directory, messages, stop)
        finally:
            room.give_back(large_holder(7))
            if lock is not None:
                os.close(lock)

    if served:
        with pytest.raises(ResourceExhausted, match="stop the service first"):
            said_by(tmp_path, compact_full)
    else:
        assert result_of(tmp_path, compact_full)["segments"] == 1
    assert len(await kept_in(tmp_path, blobs)) == 99


async def test_compaction_that_is_stopped_leaves_everything_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_STEP_RECORDS", 10)
    blobs = small_blobs(100)
    await fill(tmp_path, blobs)
    said_by(tmp_path, remove(next(iter(blobs))))
    stop = _StopAfter(5)
    with pytest.raises(Stopped):
        said_by(tmp_path, compact(), stop)
    assert len(await kept_in(tmp_path, blobs)) == 99
    assert len(result_of(tmp_path, stats)["segments"]) == 2
    assert bad_in(tmp_path) == {}


async def test_removed_blobs_are_gone_and_absent_ones_are_named(tmp_path: Path) -> None:
    blobs = {**small_blobs(10), LARGE_DIGEST: LARGE}
    await fill(tmp_path, blobs)
    one, absent = next(iter(blobs)), SHA256.digest(b"never put")
    said = said_by(tmp_path, remove(one, absent, LARGE_DIGEST, one))
    assert said == [{"absent": str(absent)}, {"result": {"removed": 2, "bytes": 1_000 + len(LARGE)}}]
    assert list((tmp_path / "large").iterdir()) == []
    assert await kept_in(tmp_path, blobs) == blobs.keys() - {one, LARGE_DIGEST}


async def test_what_is_fetched_is_checked(tmp_path: Path) -> None:
    blobs = {**small_blobs(3), LARGE_DIGEST: LARGE, Digest(SHA256, "ab" * 32, 5): b"other"}
    await fill(tmp_path, blobs)
    right = next(iter(blobs))
    assert fetch(tmp_path, right) == blobs[right]
    assert fetch(tmp_path, LARGE_DIGEST) == LARGE
    assert fetch(tmp_path, SHA256.empty) == b""
    with pytest.raises(BlobNotFound):
        fetch(tmp_path, SHA256.digest(b"never put"))
    with pytest.raises(BlobCorrupted):
        fetch(tmp_path, Digest(SHA256, "ab" * 32, 5))
    flip_byte_of(tmp_path, LARGE_DIGEST)
    with pytest.raises(BlobCorrupted):
        fetch(tmp_path, LARGE_DIGEST)


@pytest.mark.parametrize("codec", [None, ZstdCodec(), Lz4Codec()], ids=["plain", "zstd", "lz4"])
async def test_files_are_put_as_the_store_keeps_its_other_blobs(tmp_path: Path, codec: Codec | None) -> None:
    store = tmp_path / "store"
    words = b"words " * 1_000
    await fill(store, {SHA256.digest(words): words}, codec)
    files: dict[Digest, Path] = {}
    for number, data in enumerate([b"", b"a file", b"more words " * 100_000, LARGE]):
        files[SHA256.digest(data)] = tmp_path / str(number)
        (tmp_path / str(number)).write_bytes(data)
    await _put(store, files)
    for digest, file in files.items():
        assert fetch(store, digest) == file.read_bytes()
    sizes = {one["blob"]["digest"]: one["blob"]["stored_bytes"] for one in said_by(store, list_all())}
    more_words = next(digest for digest in files if digest.size_bytes == 1_100_000)
    assert (sizes[str(more_words)] < 100_000) == (codec is not None)


async def test_a_file_that_changes_is_not_kept(tmp_path: Path) -> None:
    store = tmp_path / "store"
    await fill(store, {})
    (tmp_path / "file").write_bytes(b"new")
    with pytest.raises(InvalidRequest, match="file changed while it was stored"):
        await _put(store, {SHA256.digest(b"old"): tmp_path / "file"})
    assert listed(store) == []


async def test_the_store_of_a_storage_domain_is_found(tmp_path: Path) -> None:
    await fill(tmp_path / "main", {})
    assert find_store(tmp_path, None) == find_store(tmp_path / "main", None) == tmp_path / "main"
    await fill(tmp_path / "a%2Fb", {})
    await fill(tmp_path / "%", {})
    assert find_store(tmp_path, "a/b") == tmp_path / "a%2Fb"
    assert find_store(tmp_path, "") == tmp_path / "%"
    with pytest.raises(ConfigurationError, match="choose one"):
        find_store(tmp_path, None)
    with pytest.raises(ConfigurationError, match="no storage domain 'other'; there is '', 'a/b', 'main'"):
        find_store(tmp_path, "other")
    with pytest.raises(ConfigurationError, match="leave the domain out"):
        find_store(tmp_path / "main", "main")


def test_a_directory_that_is_no_store_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="no segment store and holds none"):
        find_store(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_store_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tmp_path, {})
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match=r"belongs to the user .*: run this as that user"):
        find_store(tmp_path, None)


async def test_a_store_that_has_lost_its_index_is_left_to_its_service(tmp_path: Path) -> None:
    await fill(tmp_path, small_blobs(1))
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(ConfigurationError, match=r"the index .* is lost: start its service"):
        find_store(tmp_path, None)
    assert not (tmp_path / "index").exists()


async def test_the_settings_of_the_service_are_those_of_its_maintenance(tmp_path: Path) -> None:
    await fill(tmp_path, {}, max_bytes=2**30)
    assert settings_of(tmp_path).policy.max_bytes == 2**30
    said_by(tmp_path, stats)
    assert settings_of(tmp_path).policy.max_bytes == 2**30


class _StopAfter(Stop):
    """Wants to stop at the so many-th step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def check(self) -> None:
        self._steps -= 1
        if self._steps == 0:
            self.wanted = True
        super().check()


async def _put(store: Path, files: Mapping[Digest, Path]) -> None:
    """Put *files* in a thread: `put` has an event loop of its own."""
    await asyncio.to_thread(put, store, files, Messages(io.StringIO()), Stop())
