"""Bazel 4.2.3, Debian 12's own: it sends only `output_files`, and expects their directories to be made."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.bazel import Bazel, bazel_server, remote_cache, remote_execution
from tests.clients.builds import build_twice, outlast_a_kill
from tests.journeys.grid import SERVICE_NAMES, Grid

#: Its name wherever Debian's package is installed, whatever other Bazel there may be.
_PROGRAM = "bazel-4"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which(_PROGRAM) is None, reason="no Bazel 4 here: apt-get install bazel-bootstrap"),
]

_OFFLINE = Path(__file__).parent / "offline_repositories"


@contextmanager
def bazel4(workspace: Path, flags: Sequence[str]) -> Iterator[Bazel]:
    """Open it with empty stand-ins for the repositories that it would fetch."""
    offline = [f"--override_repository={path.name}={path}" for path in sorted(_OFFLINE.iterdir())]
    flags = [*offline, "--incompatible_strict_action_env", *flags]
    with bazel_server(workspace, flags=flags, program=[_PROGRAM]) as bazel:
        yield bazel


def run(binary: Path) -> str:
    return subprocess.run([binary], capture_output=True, text=True, timeout=30, check=True).stdout


def test_a_cpp_workspace_is_built_remotely_and_then_from_the_cache(grid: Grid, directory: Path) -> None:
    build_twice(bazel4, directory, remote_execution(grid.remote), first="remote", speak=run)


def test_results_of_local_builds_are_shared(grid: Grid, directory: Path) -> None:
    build_twice(bazel4, directory, remote_cache(grid.remote), first="local", speak=run)


@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_a_build_outlasts_the_death_of_a_service_or_says_why_not(grid: Grid, directory: Path, service: str) -> None:
    outlast_a_kill(bazel4, directory, remote_execution(grid.remote), grid, service)
