"""Fixtures of the scheduler's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.scheduler.grid import Grid, open_grid


@pytest.fixture
async def grid(tmp_path: Path) -> AsyncIterator[Grid]:
    """A scheduler with ordinary settings."""
    async with open_grid(tmp_path) as opened:
        yield opened
