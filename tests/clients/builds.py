"""What every Bazel must be able to do with a grid."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tests.clients.bazel import Bazel, finish
from tests.clients.workspaces import GENRULES, expected_words, write_cpp_workspace, write_genrule_workspace
from tests.journeys.grid import Grid

#: So many outputs are there before a service is killed: the build is under way.
_BEFORE_KILL = 20
_UNDER_WAY_SECONDS = 120.0
#: How Bazel says that a service was away, rather than that a command failed or a result is wrong.
_SERVICE_AWAY = re.compile(r"UNAVAILABLE|[Cc]onnection (?:refused|reset)|io exception|RST_STREAM")


class OpenBazel(Protocol):
    """Opens the Bazel under test for a workspace, with flags beside its own."""

    def __call__(self, workspace: Path, flags: Sequence[str]) -> AbstractContextManager[Bazel]: ...


def build_twice(
    open_bazel: OpenBazel, directory: Path, flags: Sequence[str], *, first: str, speak: Callable[[Path], str]
) -> None:
    """Build, test and run a C++ workspace, then build it again from cache hits alone.

    *first* is how Bazel calls the processes of the first build; *speak* runs its binary.
    """
    workspace = write_cpp_workspace(directory / "cpp")
    with open_bazel(workspace, flags) as bazel:
        build = bazel.run("build", "//...").assert_success()
        assert set(build.processes) == {first}, build.output
        bazel.run("test", "//...").assert_success()
        assert speak(workspace / "bazel-bin" / "speak") == expected_words(workspace)
        assert (workspace / "bazel-bin" / "spoken.txt").read_text() == expected_words(workspace)

        bazel.clean()
        again = bazel.run("build", "//...").assert_success()
        assert set(again.processes) == {"remote cache hit"}, again.output
        assert again.processes["remote cache hit"] == build.processes[first]
        assert speak(workspace / "bazel-bin" / "speak") == expected_words(workspace)


def build_with_minimal_downloads(
    open_bazel: OpenBazel, directory: Path, flags: Sequence[str], *, speak: Callable[[Path], str]
) -> None:
    """Build a C++ workspace without its outputs, twice; then ask for one of them, which must be the right one."""
    workspace = write_cpp_workspace(directory / "cpp")
    binary = workspace / "bazel-bin" / "speak"
    with open_bazel(workspace, [*flags, "--remote_download_minimal"]) as bazel:
        build = bazel.run("build", "//...").assert_success()
        assert set(build.processes) == {"remote"}, build.output
        assert not binary.exists()

        bazel.clean()
        again = bazel.run("build", "//...").assert_success()
        assert again.processes == {"remote cache hit": build.processes["remote"]}, again.output
        assert not binary.exists()

        bazel.run("build", "//:speak", "//:spoken", "--remote_download_toplevel").assert_success()
        assert speak(binary) == expected_words(workspace)
        assert (workspace / "bazel-bin" / "spoken.txt").read_text() == expected_words(workspace)


def outlast_a_kill(open_bazel: OpenBazel, directory: Path, flags: Sequence[str], grid: Grid, service: str) -> None:
    """Kill *service* while 200 genrules are built: the build ends well, or says that it was away.

    A repeat succeeds in any case, and builds no more than was left to do.
    """
    workspace = directory / "many"
    outputs = write_genrule_workspace(workspace)
    with open_bazel(workspace, flags) as bazel:
        with bazel.start("build", "//...") as process:
            _wait_until_under_way(workspace, process)
            mark = grid.kill(service)
            build = finish(process)
        print(f"killed {service}: status {build.status}, {dict(build.processes)}")
        if build.status:
            assert _SERVICE_AWAY.search(build.output), build.output
        else:
            _check(workspace, outputs)
        grid.wait_well_again(mark)
        rest = bazel.run("build", "//...").assert_success()
        assert sum(rest.processes.values()) < (GENRULES if build.status else 1), rest.output
        _check(workspace, outputs)
        bazel.clean()
        bazel.run("build", "//...").assert_success()
        _check(workspace, outputs)


def _wait_until_under_way(workspace: Path, process: subprocess.Popen[str]) -> None:
    """Outputs that appear are all that tells how far Bazel is, short of reading its progress."""
    give_up = time.monotonic() + _UNDER_WAY_SECONDS
    while len(list((workspace / "bazel-bin").glob("out*.txt"))) < _BEFORE_KILL:
        if process.poll() is not None or time.monotonic() > give_up:
            raise AssertionError(f"the build did not get under way; it said:\n{finish(process).output}")
        time.sleep(0.05)


def _check(workspace: Path, outputs: dict[str, str]) -> None:
    for name, text in outputs.items():
        assert (workspace / "bazel-bin" / name).read_text() == text, name
