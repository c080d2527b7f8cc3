import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client_tree import ClientTree, find_client_tree
from tests.journeys.grid import Grid, running_grid


@pytest.fixture(scope="session")
def session_grid() -> Iterator[Grid]:
    with running_grid("--slots", "4") as grid:
        yield grid


@pytest.fixture
def grid(session_grid: Grid) -> Iterator[Grid]:
    """A grid whose actions run with this machine's tools."""
    mark = session_grid.mark()
    yield session_grid
    print(session_grid.tail(after=mark))


@pytest.fixture(scope="session")
def tree() -> ClientTree:
    """The tree of clients; without one the test is skipped."""
    return find_client_tree([])


@pytest.fixture(scope="session")
def session_tree_grid(tree: ClientTree) -> Iterator[Grid]:
    with running_grid("--slots", "4", prefix=tree.entered_at(Path("/tmp"))) as grid:
        yield grid


@pytest.fixture
def tree_grid(session_tree_grid: Grid) -> Iterator[Grid]:
    """A grid that runs inside the tree, so that its actions have the tools that the clients there have."""
    mark = session_tree_grid.mark()
    yield session_tree_grid
    print(session_tree_grid.tail(after=mark))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short-lived directory that the tree sees as well, and that read-only outputs of Bazel do not keep."""
    where = Path(tempfile.mkdtemp(prefix="gridwright-client-", dir="/tmp"))
    yield where
    for path in [where, *(path for path in where.rglob("*") if path.is_dir() and not path.is_symlink())]:
        path.chmod(0o755)
    shutil.rmtree(where)
