"""A service as a process: its start, its end, and what it says when its settings are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import EXIT_CONFIG
from tests.shared.probe import unary_unary

ROOT = Path(__file__).resolve().parents[2]


async def start(*arguments: str, cwd: Path, **environment: str) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWRIGHT_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.shared.probe_process",
        *arguments,
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def started(*arguments: str, cwd: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process that says that it has started; end it if the test does not."""
    process = await start(*arguments, cwd=cwd, **environment)
    assert process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stderr.readline(), 30)
        while b'"started"' not in line:
            assert line, "it ended instead of starting"
            line = await asyncio.wait_for(process.stderr.readline(), 30)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def outcome(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_service_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    async with started(cwd=tmp_path) as process:
        process.send_signal(number)
        code, stderr = await outcome(process)
    assert code == 0
    events = [json.loads(line)["event"] for line in stderr.splitlines()]
    assert events[-2:] == ["draining", "stopped"]


async def test_a_service_joins_others_by_unix_sockets_below_its_working_directory(tmp_path: Path) -> None:
    config = tmp_path / "grid.yaml"
    config.write_text("cas: {listen: 'unix:run/probe.sock', admin: 'unix:run/admin.sock'}\nscheduler: {any: thing}\n")
    async with started("--config", "grid.yaml", cwd=tmp_path) as process:
        async with GrpcChannel(f"unix:{tmp_path}/run/probe.sock") as channel:
            assert await unary_unary(channel) == [3]
        transport = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/run/admin.sock")
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://admin/readyz")).status_code == 200
        process.terminate()
        assert (await outcome(process))[0] == 0


async def test_settings_that_make_no_sense_end_the_start_naming_their_path(tmp_path: Path) -> None:
    config = tmp_path / "grid.yaml"
    config.write_text("cas: {listen: nowhere, colour: blue}\n")
    code, stderr = await outcome(await start("--config", str(config), cwd=tmp_path))
    assert code == EXIT_CONFIG
    assert stderr.startswith("gridwright-probe: ")
    assert str(config) in stderr
    assert "cas.listen: 'nowhere' is not an address" in stderr
    assert "cas.colour: unknown key" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("key", ["LISTEN", "ADMIN"])
async def test_a_port_in_use_ends_the_start_naming_it(tmp_path: Path, key: str) -> None:
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = f"127.0.0.1:{taken.sockets[0].getsockname()[1]}"
    async with taken:
        code, stderr = await outcome(await start(cwd=tmp_path, **{f"GRIDWRIGHT_CAS__{key}": address}))
    assert code == EXIT_CONFIG
    assert f"cannot listen on {address}" in stderr
    assert "Traceback" not in stderr


async def test_the_version_can_be_asked_for(tmp_path: Path) -> None:
    process = await start("--version", cwd=tmp_path)
    stdout, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert stdout.strip()
