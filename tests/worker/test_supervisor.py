"""The supervisor of a slot, as a program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from gridwright.errors import Unavailable
from gridwright_worker.execution.hosttools import HostToolsRunner
from gridwright_worker.execution.runner import Run
from gridwright_worker.execution.supervision import SupervisorProcess
from gridwright_worker.execution.supervisor import Request
from gridwright_worker.execution.workspace import Workspace
from tests.worker.processes import alive, holds, until

OWNER = """
import asyncio, sys
from pathlib import Path
from gridwright_worker.execution.hosttools import HostToolsRunner
from gridwright_worker.execution.runner import Run
from gridwright_worker.execution.workspace import Workspace

async def main() -> None:
    workspace = Workspace(Path(sys.argv[1]))
    workspace.clear()
    runner = HostToolsRunner(workspace, fixed_path=None, kill_grace_seconds=1)
    await runner.run(Run(["/bin/sh", "-c", sys.argv[2]], {}, "", 1000))

asyncio.run(main())
"""


def request(directory: Path, line: str) -> Request:
    return {
        "arguments": ["/bin/sh", "-c", line],
        "environment": {},
        "working_directory": str(directory),
        "stdout": str(directory / "stdout"),
        "stderr": str(directory / "stderr"),
        "timeout_seconds": 100.0,
        "grace_seconds": 0.1,
    }


async def test_what_the_worker_was_told_to_ignore_commands_are_not(tmp_path: Path) -> None:
    """A worker started by nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        supervisor = await SupervisorProcess.start(tmp_path, None, None)
        answer = await supervisor.ask(request(tmp_path, "kill -HUP $$; echo survived"))
    finally:
        signal.signal(signal.SIGHUP, before)
    await supervisor.end()
    assert answer["exit_code"] == 128 + signal.SIGHUP


async def test_it_runs_one_command_after_the_other(tmp_path: Path) -> None:
    supervisor = await SupervisorProcess.start(tmp_path, None, None)
    for number in range(3):
        answer = await supervisor.ask(request(tmp_path, f"echo {number}; exit {number}"))
        assert answer["exit_code"] == number
        assert (tmp_path / "stdout").read_text() == f"{number}\n"
        assert answer["max_resident_kib"] > 0
    await supervisor.end()
    assert alive([supervisor.pid]) == []


async def test_it_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    supervisor = await SupervisorProcess.start(tmp_path, None, None)
    assert "site-packages" not in proc(supervisor.pid, "maps")
    await supervisor.end()


async def test_when_the_worker_is_killed_nothing_of_an_action_survives(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f"(setsid sleep 1000 & echo $! >> {pids}); echo $$ $PPID end >> {pids}; exec sleep 1000"
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, str(tmp_path / "slot"), line)
    await until(lambda: holds(pids, "end"))
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait()
    await until(lambda: alive(pids.read_text().replace("end", "").split()) == [], seconds=1)


async def test_a_tree_that_keeps_forking_is_ended_too(tmp_path: Path) -> None:
    supervisor = await SupervisorProcess.start(tmp_path, None, None)
    (tmp_path / "forks.sh").write_text("echo $$ >> pids\nfor i in 1 2 3; do setsid sleep 1000 & done\nsh forks.sh &\n")
    asked = request(tmp_path, "sh forks.sh & sleep 0.3")
    assert "error" not in await supervisor.ask(asked)
    assert proc(supervisor.pid, f"task/{supervisor.pid}/children") == ""
    await supervisor.end()


async def test_a_supervisor_that_dies_is_the_machines_fault_and_is_replaced(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "slot")
    workspace.clear()
    runner = HostToolsRunner(workspace, fixed_path=None, kill_grace_seconds=1)
    with pytest.raises(Unavailable, match="supervisor"):
        await runner.run(Run(["/bin/sh", "-c", "kill -KILL $PPID"], {}, "", 100))
    ended = await runner.run(Run(["/bin/sh", "-c", "exit 5"], {}, "", 100))
    assert ended.exit_code == 5
    await runner.close()


async def test_the_lock_that_it_keeps_does_not_reach_actions(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    supervisor = await SupervisorProcess.start(tmp_path, None, lock)
    os.close(lock)
    held = [os.readlink(path) for path in fds(supervisor.pid)]
    assert str(tmp_path / "lock") in held
    await supervisor.ask(request(tmp_path, "ls -l /proc/$$/fd"))
    assert str(tmp_path / "lock") not in (tmp_path / "stdout").read_text()
    await supervisor.end()


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def fds(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


async def test_arguments_of_any_text_arrive(tmp_path: Path) -> None:
    supervisor = await SupervisorProcess.start(tmp_path, None, None)
    asked = request(tmp_path, "") | {"arguments": ["/bin/echo", "ä €\n", "x" * 100_000]}
    await supervisor.ask(asked)
    assert (tmp_path / "stdout").read_text() == f"ä €\n {'x' * 100_000}\n"
    await supervisor.end()


async def test_where_no_mount_namespace_is_possible_the_slot_has_its_own_path(tmp_path: Path) -> None:
    supervisor = await SupervisorProcess.start(tmp_path, tmp_path / "absent", None)
    assert supervisor.root == str(tmp_path)
    assert supervisor.reason
    await supervisor.end()
