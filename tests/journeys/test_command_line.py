"""`gridwright execute` and `gridwright capabilities`, against a whole grid."""

import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.journeys.grid import Grid, runs, wait_until_runs


def gridwright_execute(grid: Grid, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gridwright_cli", "execute", "--remote", grid.remote, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=60, check=False)


def test_the_command_line_passes_everything_on_byte_for_byte(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "in" / "tool").write_bytes(b"#!/bin/sh\ncat data; cat data >&2; mkdir -p d; cp data d/copy; exit 3\n")
    (tmp_path / "in" / "tool").chmod(0o755)
    ended = gridwright_execute(grid, tmp_path, "--input", "in", "--output", "d", "--", "./tool", str(uuid4()))
    assert ended.returncode == 3
    assert ended.stdout == ended.stderr == (tmp_path / "in" / "data").read_bytes()
    assert (tmp_path / "d" / "copy").read_bytes() == ended.stdout


def test_the_command_line_says_what_happens_when_asked(grid: Grid, tmp_path: Path) -> None:
    ended = gridwright_execute(grid, tmp_path, "--verbose", "--", "/bin/echo", str(uuid4()))
    assert ended.returncode == 0
    assert b"gridwright: uploading" in ended.stderr
    assert b"gridwright: exit code 0, output files: 0; run by " in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--instance", "nobody", "--", "/bin/true"], 122, "unknown instance name 'nobody'"),
        (["--output", "absent", "--", "/bin/true"], 125, "did not make absent"),
        (["--timeout", "1", "--", "/bin/sleep", "60"], 124, "execution timeout exceeded"),
        (["--", "/no/such/command"], 127, "/no/such/command"),
    ],
)
def test_the_command_line_tells_each_failure_in_its_own_way(
    grid: Grid, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    ended = gridwright_execute(grid, tmp_path, *arguments)
    assert ended.returncode == status
    assert words in ended.stderr.decode()


def test_the_command_line_shows_what_the_grid_offers(grid: Grid) -> None:
    command = [sys.executable, "-m", "gridwright_cli", "capabilities", "--remote", grid.remote]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0
    assert "2.0 to 2.12" in ended.stdout


def test_a_ctrl_c_cancels_what_runs(grid: Grid) -> None:
    action = ["/bin/sh", "-c", f"sleep 100 # {uuid4()}"]
    command = [sys.executable, "-m", "gridwright_cli", "execute", "--remote", grid.remote, "--", *action]
    with subprocess.Popen(command) as client:
        wait_until_runs(action)
        mark = grid.mark()
        client.send_signal(signal.SIGINT)
        assert client.wait(30) == 130
    grid.wait_for(lambda line: "lease_stopped" in line, "to stop the action", after=mark)
    assert not runs(action)
