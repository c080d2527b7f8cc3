"""Looking at processes from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path


def alive(pids: Iterable[int | str | bytes]) -> list[int]:
    """Return those of *pids* that exist and are no zombies."""
    return [pid for pid in map(int, pids) if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[0]


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until *condition* holds, which nobody will tell of; fail after *seconds*."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what other processes do raises no event here
            await asyncio.sleep(0.01)


def holds(path: Path, word: str) -> bool:
    """Return whether the file has been written as far as *word*."""
    return path.exists() and word in path.read_text()
