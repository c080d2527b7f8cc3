"""Bazel, as the tests drive it: a workspace and a server of its own, and what its builds report."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SUMMARY = re.compile(r"^INFO: \d+ process(?:es)?: (.+)\.$", re.MULTILINE)
_BUILD_SECONDS = 240.0


@dataclass(frozen=True)
class Build:
    """How one Bazel command went."""

    status: int
    output: str

    @property
    def processes(self) -> Mapping[str, int]:
        """How many actions ran how, from the summary ("13 processes: 4 internal, 9 remote cache hit.")."""
        summaries = _SUMMARY.findall(self.output)
        if not summaries:
            return {}
        pairs = (part.split(" ", 1) for part in summaries[-1].split(", "))
        return {how: int(count) for count, how in pairs if how != "internal"}

    def assert_success(self) -> Build:
        assert self.status == 0, self.output
        return self


class Bazel:
    """One workspace.

    Args:
        workspace: its directory; Bazel's own files are kept beside it.
        flags: for every command that builds.
        program: Bazel, with startup options, and before it a command that it is run through.
    """

    def __init__(self, workspace: Path, *, flags: Sequence[str], program: Sequence[str]) -> None:
        self.workspace = workspace
        self._flags = flags
        self._startup = [
            *(*program, f"--output_user_root={workspace}.bazel", "--max_idle_secs=120"),
            *("--nohome_rc", "--noworkspace_rc"),
        ]

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command that builds."""
        return subprocess.Popen(
            [*self._startup, command, "--curses=no", "--color=no", *self._flags, *arguments],
            cwd=self.workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HOME": str(self.workspace.parent)},
        )

    def run(self, command: str, *arguments: str) -> Build:
        """Run a command that builds, to its end."""
        with self.start(command, *arguments) as process:
            return finish(process)

    def clean(self) -> None:
        """Forget all results on this machine."""
        self._plain("clean")

    def shutdown(self) -> None:
        """End the server."""
        self._plain("shutdown")

    def _plain(self, command: str) -> None:
        subprocess.run(
            [*self._startup, command], cwd=self.workspace, capture_output=True, timeout=_BUILD_SECONDS, check=True
        )


def finish(process: subprocess.Popen[str]) -> Build:
    """Return how a command went, when it has ended."""
    try:
        output, _ = process.communicate(timeout=_BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"bazel did not end; it said:\n{output}") from None
    return Build(process.returncode, output)


@contextmanager
def bazel_server(workspace: Path, *, flags: Sequence[str], program: Sequence[str]) -> Iterator[Bazel]:
    """Yield a Bazel whose server ends with the block, and whose read-only outputs can be deleted."""
    bazel = Bazel(workspace, flags=flags, program=program)
    try:
        yield bazel
    finally:
        bazel.shutdown()


def remote_execution(remote: str) -> list[str]:
    """Return the flags for builds that run on a grid, and nowhere else."""
    return [
        *(f"--remote_executor={remote}", "--remote_instance_name=main"),
        *("--spawn_strategy=remote", "--noremote_local_fallback", "--jobs=20"),
    ]


def remote_cache(remote: str) -> list[str]:
    """Return the flags for builds that run here and share their results."""
    return [f"--remote_cache={remote}", "--remote_instance_name=main", "--spawn_strategy=local"]
