import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gridwright_cli.up import launch
from gridwright_cli.up.service_process import ServiceProcess


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


async def test_its_output_arrives_line_by_line_and_its_status_at_the_end() -> None:
    lines: list[bytes] = []
    process = ServiceProcess(
        python("import sys; print('out', flush=True); print('err', file=sys.stderr); print('rest', end=''); exit(3)"),
        lines.append,
    )
    assert await process.wait() == 3
    assert lines == [b"out", b"err", b"rest"]


async def test_a_line_is_shown_while_it_still_runs() -> None:
    seen = asyncio.Event()
    process = ServiceProcess(["sh", "-c", "echo up; exec sleep 60"], lambda line: seen.set())
    async with asyncio.timeout(10):
        await seen.wait()
    process.signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    process.signal(signal.SIGTERM)  # too late, and no error


async def test_a_ctrl_c_in_the_terminal_does_not_reach_it() -> None:
    process = ServiceProcess(["sleep", "60"], lambda line: None)
    assert os.getsid(process.pid) == process.pid
    process.signal(signal.SIGTERM)
    assert await process.wait() == -signal.SIGTERM


async def test_a_child_that_keeps_the_output_open_does_not_delay_the_end() -> None:
    lines: list[bytes] = []
    process = ServiceProcess(["sh", "-c", "sleep 60 & echo $!"], lines.append)
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    os.kill(int(lines[0]), signal.SIGKILL)


async def test_a_command_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        ServiceProcess(["/no/such/command"], lambda line: None)


def launched(parent: str, command: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(launch.__file__)), parent, "/bin/sh", "-c", command]


def test_a_service_hears_of_the_death_of_who_started_it() -> None:
    service = launched("PARENT", "trap 'echo heard; kill $!; exit' TERM; echo up; sleep 60 & wait")
    starter = f"""
import os, subprocess
command = [str(os.getpid()) if word == "PARENT" else word for word in {service!r}]
subprocess.Popen(command).wait()
"""
    with subprocess.Popen(python(starter), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.readline() == b"heard\n"


def test_a_service_whose_starter_is_gone_already_does_not_start() -> None:
    ended = subprocess.run(launched("1", "echo ran"), capture_output=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == b""
