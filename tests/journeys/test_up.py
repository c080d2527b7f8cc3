"""`gridwright up` from outside: how it starts, goes on and ends."""

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from gridwright_cli.up.announcement import READY
from tests.journeys.grid import (
    SERVICE_NAMES,
    STOP_SECONDS,
    Grid,
    free_ports,
    processes_in,
    running_grid,
    runs,
    wait_until_runs,
)


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory whose path is long and has a space, below one that every uid can enter."""
    where = Path(tempfile.mkdtemp(prefix="gridwright up "))
    where.chmod(0o755)
    yield where / ("a long name " * 8) / "data"
    shutil.rmtree(where, ignore_errors=True)


def execute(grid: Grid, *command: str, instance: str = "main") -> subprocess.CompletedProcess[str]:
    options = ["--remote", grid.remote, "--instance", instance]
    words = [sys.executable, "-m", "gridwright_cli", "execute", *options, "--", *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def executing(grid: Grid, action: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run *action* through the command line while the block runs."""
    command = [sys.executable, "-m", "gridwright_cli", "execute", "--remote", grid.remote, "--", *action]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        yield client


def test_it_starts_says_how_to_use_it_and_leaves_nothing_behind(data: Path) -> None:
    with running_grid(data=data) as grid:
        log = grid.tail()
        assert f"--remote_executor=grpc://127.0.0.1:{grid.port} --remote_instance_name=main" in log
        assert f"RECC_SERVER=http://127.0.0.1:{grid.port} RECC_INSTANCE=main" in log
        with urllib.request.urlopen(f"http://127.0.0.1:{grid.console_port}/status", timeout=10) as answer:
            assert answer.status == 200
        assert execute(grid, "/bin/echo", "hello").stdout == "hello\n"
        pids = {service: grid.pid(service) for service in SERVICE_NAMES}
        assert len(set(pids.values())) == 5
        assert "\x1b[" not in log
        assert grid.stop() == 0
        assert grid.tail().splitlines()[-1].endswith("stopped")
    assert processes_in(data) == []
    assert not list((data / "run").glob("*.pid"))
    for port in (grid.port, grid.console_port):
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_what_it_knows_survives_a_restart(data: Path) -> None:
    script = "date +%s%N"
    with running_grid(data=data) as grid:
        first = execute(grid, "/bin/sh", "-c", script).stdout
    with running_grid(data=data) as grid:
        assert execute(grid, "/bin/sh", "-c", script).stdout == first


def test_two_grids_run_side_by_side_and_know_nothing_of_each_other(grid: Grid, data: Path) -> None:
    with running_grid("--instance", "other", data=data) as other:
        for mine, its, instance in ((grid, other, "main"), (other, grid, "other")):
            assert execute(mine, "/bin/true", instance=instance).returncode == 0
            assert execute(its, "/bin/true", instance=instance).returncode == 122
        assert {grid.pid(name) for name in SERVICE_NAMES}.isdisjoint(other.pid(name) for name in SERVICE_NAMES)


def test_a_second_one_on_the_same_directory_is_refused(grid: Grid) -> None:
    port, console_port = free_ports(2)
    second = Grid(grid.data, port=port, console_port=console_port)
    assert second.wait_stopped() == 2
    assert "another `gridwright up`" in second.tail()
    assert "--data" in second.tail()


def test_a_port_in_use_is_named_before_anything_is_started(grid: Grid, data: Path) -> None:
    second = Grid(data, port=grid.port, console_port=free_ports(1)[0])
    assert second.wait_stopped() == 2
    assert second.tail() == f"gridwright: port {grid.port} of 127.0.0.1 is in use: choose another with --port"


def test_settings_that_a_service_cannot_use_stop_the_grid(data: Path) -> None:
    port, console_port = free_ports(2)
    grid = Grid(data, port=port, console_port=console_port, environment={"GRIDWRIGHT_CAS__NO_SUCH_KEY": "1"})
    assert grid.wait_stopped() == 78
    log = grid.tail()
    assert "cas.no_such_key: unknown key" in log
    assert "cas cannot use its settings" in log
    assert processes_in(data) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_way_to_ask_it_to_stop_is_heard_also_while_it_starts(data: Path, number: signal.Signals) -> None:
    port, console_port = free_ports(2)
    grid = Grid(data, port=port, console_port=console_port)
    grid.wait_for(lambda line: "starting in" in line, "to start", after=0)
    grid.wait_for(lambda line: "started" in line, "to have a service", after=0)
    grid.ask_to_stop(number)
    assert grid.wait_stopped() == 0
    assert processes_in(data) == []


def test_a_terminal_that_is_closed_stops_it_in_order(data: Path) -> None:
    port, console_port = free_ports(2)
    master, terminal = pty.openpty()
    options = ["--data", str(data), "--port", str(port), "--console-port", str(console_port)]
    # In a session of its own with this terminal, so that the kernel itself sends the SIGHUP.
    command = ["setsid", "--ctty", sys.executable, "-m", "gridwright_cli", "up", *options]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    with open(master, "rb") as screen:
        assert any(line.startswith(READY.encode()) for line in screen)
        assert len(list((data / "run").glob("*.pid"))) == len(SERVICE_NAMES)
    try:
        assert process.wait(STOP_SECONDS) == 0
    finally:
        process.kill()
    assert not list((data / "run").glob("*.pid"))
    assert processes_in(data) == []


def test_a_terminal_that_stands_still_does_not_keep_it_from_starting_and_stopping(data: Path) -> None:
    port, console_port = free_ports(2)
    reader, writer = os.pipe()
    # Full from the beginning, as a terminal is after Ctrl-S.
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    options = ["--data", str(data), "--port", str(port), "--console-port", str(console_port)]
    command = [sys.executable, "-m", "gridwright_cli", "up", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert process.stdout is not None
    try:
        with process.stdout as answers:
            assert answers.readline().startswith(READY.encode())
            process.terminate()
            assert process.wait(STOP_SECONDS) == 0
    finally:
        process.kill()
        os.close(reader)
    assert not list((data / "run").glob("*.pid"))
    assert processes_in(data) == []


def test_an_action_that_runs_is_finished_before_the_end(data: Path) -> None:
    action = ["/bin/sh", "-c", f"sleep 2; echo done # {uuid4()}"]
    with running_grid(data=data) as grid, executing(grid, action) as client:
        wait_until_runs(action)
        grid.ask_to_stop()
        output, _ = client.communicate(timeout=60)
        assert (client.returncode, output) == (0, "done\n")


def test_asked_twice_it_is_quick(data: Path) -> None:
    action = ["/bin/sh", "-c", f"sleep 300 # {uuid4()}"]
    with running_grid(data=data) as grid, executing(grid, action) as client:
        wait_until_runs(action)
        mark = grid.mark()
        grid.ask_to_stop()
        grid.wait_for(lambda line: "stopping" in line, "to begin to stop", after=mark)
        grid.ask_to_stop()
        assert grid.wait_stopped() == 0
        assert "worker does not end; killing it" in grid.tail(after=mark)
        client.kill()
    assert processes_in(data) == []
    assert not runs(action)


def test_its_services_do_not_outlive_it_when_it_is_killed(data: Path) -> None:
    with running_grid(data=data) as grid:
        pidfds = [os.pidfd_open(grid.pid(service)) for service in SERVICE_NAMES]
        grid.process.kill()
        assert grid.process.wait(10) == -signal.SIGKILL
        # The next one waits for those that are still at it, and starts well.
        with running_grid(data=data) as again:
            assert execute(again, "/bin/echo", "well").stdout == "well\n"
            for pidfd in pidfds:
                os.close(pidfd)
        grid.process.returncode = 0  # as asked
    assert processes_in(data) == []
