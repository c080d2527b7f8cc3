"""Two hundred kills at random moments under load."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gridwright.digest import Digest
from tests.cas.segments.killing import found, killed

pytestmark = pytest.mark.soak

KILLS = 200
#: The directory is emptied after so many, or it would outgrow the disk.
KILLS_PER_DIRECTORY = 20
READY_SECONDS = 2.0


async def test_two_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random()
    slowest = 0.0
    count = 0
    for first in range(0, KILLS, KILLS_PER_DIRECTORY):
        path = tmp_path / str(first)
        acknowledged: list[Digest] = []
        for _ in range(KILLS_PER_DIRECTORY):
            one = await killed(path, 2**40, chance)
            slowest = max(slowest, one.ready_seconds or 0.0)
            acknowledged += one.acknowledged
            assert await found(path, 2**40, acknowledged) == set(acknowledged)
        count += len(acknowledged)
        shutil.rmtree(path)
    print(f"\n{KILLS} kills, {count} blobs acknowledged, none missing, ready within {slowest:.3f} s at most")
    assert slowest < READY_SECONDS
