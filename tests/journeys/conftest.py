from collections.abc import AsyncIterator, Iterator

import pytest

from tests.journeys.build_client import BuildClient, build_client
from tests.journeys.grid import Grid, running_grid


@pytest.fixture(scope="session")
def session_grid() -> Iterator[Grid]:
    """The grid that tests share which do it no harm."""
    with running_grid("--slots", "4") as grid:
        yield grid


@pytest.fixture
def grid(session_grid: Grid) -> Iterator[Grid]:
    """The shared grid; what it says during a test that fails is shown."""
    mark = session_grid.mark()
    yield session_grid
    print(session_grid.tail(after=mark))


@pytest.fixture
async def client(grid: Grid) -> AsyncIterator[BuildClient]:
    """A client of the shared grid."""
    async with build_client(grid.endpoint) as client:
        yield client
