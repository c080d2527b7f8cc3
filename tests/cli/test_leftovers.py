import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gridwright_cli.up.leftovers import end_leftovers

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@contextmanager
def running(command: list[str], directory: Path, *, new_session: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, start_new_session=new_session) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_what_still_runs_is_ended(tmp_path: Path) -> None:
    with running(SLEEP, tmp_path) as process:
        assert end_leftovers([process.pid], tmp_path, patience_seconds=10) == 1
        assert process.wait(10) == -signal.SIGTERM


def test_what_does_not_listen_is_killed(tmp_path: Path) -> None:
    with running(DEAF, tmp_path) as process:
        end_leftovers([process.pid], tmp_path, patience_seconds=0.1)
        assert process.wait(10) == -signal.SIGKILL


def test_what_a_service_that_died_had_started_is_ended(tmp_path: Path) -> None:
    """Its session outlives it."""
    script = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        child = os.pidfd_open(int(leader.stdout.readline()))
        leader.wait(10)
        try:
            assert end_leftovers([leader.pid], tmp_path, patience_seconds=10) == 1
            assert select.select([child], [], [], 10)[0] == [child]
        finally:
            os.close(child)


def test_a_process_that_got_the_number_but_works_elsewhere_is_left_alone(tmp_path: Path) -> None:
    (mine := tmp_path / "mine").mkdir()
    (other := tmp_path / "other").mkdir()
    with running(SLEEP, other) as process:
        assert end_leftovers([process.pid], mine, patience_seconds=1) == 0
        assert process.poll() is None


def test_a_process_of_another_session_is_left_alone(tmp_path: Path) -> None:
    with running(SLEEP, tmp_path, new_session=False) as process:
        assert end_leftovers([process.pid], tmp_path, patience_seconds=1) == 0
        assert process.poll() is None


def test_numbers_of_processes_long_gone_are_no_trouble(tmp_path: Path) -> None:
    with running(SLEEP, tmp_path) as process:
        pass
    assert end_leftovers([process.pid], tmp_path, patience_seconds=1) == 0
