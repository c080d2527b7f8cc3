"""Sole use of something, by a lock on a file."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from gridwright.file_lock import lock_within, try_lock


def test_a_lock_is_held_once_and_free_when_it_is_closed(tmp_path: Path) -> None:
    held = try_lock(tmp_path / "lock")
    assert held is not None
    assert try_lock(tmp_path / "lock") is None
    os.close(held)
    again = try_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    program = "import sys; from gridwright.file_lock import *; try_lock(Path(sys.argv[1])); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert try_lock(tmp_path / "lock") is None
        holder.send_signal(signal.SIGKILL)
    held = try_lock(tmp_path / "lock")
    assert held is not None
    os.close(held)


async def test_a_holder_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    held = try_lock(tmp_path / "lock")
    assert held is not None
    waiting = asyncio.create_task(lock_within(tmp_path / "lock", 10.0))
    await asyncio.sleep(0)
    os.close(held)
    descriptor = await waiting
    assert descriptor is not None
    os.close(descriptor)


async def test_waiting_has_a_bound(tmp_path: Path) -> None:
    held = try_lock(tmp_path / "lock")
    assert held is not None
    assert await lock_within(tmp_path / "lock", 0.1) is None
    os.close(held)
