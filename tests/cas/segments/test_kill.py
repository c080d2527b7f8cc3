"""Whenever the process is killed, what it acknowledged is there and right, and nothing torn is."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from gridwright.digest import Digest
from tests.cas.segments.killing import found, killed

MIB = 2**20


async def test_what_was_acknowledged_outlasts_kills(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged: list[Digest] = []
    for _ in range(6):
        acknowledged += (await killed(tmp_path, 2**40, chance)).acknowledged
        assert await found(tmp_path, 2**40, acknowledged) == set(acknowledged)
    assert len(acknowledged) > 1_000


async def test_one_of_two_processes_on_a_directory_is_killed(tmp_path: Path) -> None:
    chance = random.Random(11)
    acknowledged: list[Digest] = []
    for _ in range(2):
        both = await asyncio.gather(killed(tmp_path, 2**40, chance), killed(tmp_path, 2**40, chance))
        acknowledged += [digest for one in both for digest in one.acknowledged]
        assert await found(tmp_path, 2**40, acknowledged) == set(acknowledged)
    assert acknowledged


async def test_kills_while_old_blobs_are_evicted(tmp_path: Path) -> None:
    chance = random.Random(13)
    max_bytes = 64 * MIB
    acknowledged: list[Digest] = []
    for _ in range(4):
        acknowledged += (await killed(tmp_path, max_bytes, chance)).acknowledged
        there = await found(tmp_path, max_bytes, acknowledged)
        # The last ones, which have room several times over, are too young to be evicted.
        youngest = _last(acknowledged, max_bytes // 8)
        assert youngest <= there


def _last(digests: list[Digest], size_bytes: int) -> set[Digest]:
    last: set[Digest] = set()
    for digest in reversed(digests):
        size_bytes -= digest.size_bytes
        if size_bytes < 0:
            break
        last.add(digest)
    return last
