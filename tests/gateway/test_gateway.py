"""The gateway as a process: what it refuses, what it serves, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gridwright.errors import Unimplemented
from gridwright.wire.grpc_channel import GrpcChannel
from tests.gateway.echo import Script
from tests.gateway.test_calls import GET_ACTION_RESULT, answer

EXIT_CONFIG = 78


def settings(**gateway: object) -> dict[str, Any]:
    return {
        "endpoints": {name: f"unix:{name}.sock" for name in ("cas", "actioncache", "scheduler")},
        "log": {"format": "json"},
        "gateway": {
            "listen": "127.0.0.1:0",
            "console": "unix:console.sock",
            "admin": "unix:admin.sock",
            "threads": 1,
            **gateway,
        },
    }


async def start(directory: Path, data: Mapping[str, Any]) -> Process:
    (directory / "grid.yaml").write_text(yaml.safe_dump(dict(data)))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gridwright_gateway", "--config", "grid.yaml"), cwd=directory, stderr=PIPE
    )


@asynccontextmanager
async def running(directory: Path, data: Mapping[str, Any]) -> AsyncIterator[Process]:
    """Run a gateway in *directory*; the block begins when it is ready."""
    process = await start(directory, data)
    try:
        async with asyncio.timeout(30):
            while not await is_ready(directory):
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refusal(directory: Path, data: Mapping[str, Any]) -> str:
    """Run a gateway that will not start; return what it says."""
    process = await start(directory, data)
    async with asyncio.timeout(30):
        _, errors = await process.communicate()
    assert process.returncode == EXIT_CONFIG, errors.decode()
    return errors.decode()


async def get(directory: Path, path: str, of: str = "console") -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(directory / f"{of}.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path)


async def is_ready(directory: Path) -> bool:
    try:
        return (await get(directory, "/readyz", of="admin")).status_code == 200
    except httpx.TransportError:
        return False


async def endpoint(directory: Path) -> str:
    url: str = (await get(directory, "/status")).json()["endpoint"]
    return url.removeprefix("grpc://")


def envoys(directory: Path) -> list[int]:
    """Return the processes, guardians too, that were started in *directory*, but the gateway itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                mine = (entry / "cwd").readlink() == directory and b"envoy" in (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended, or is not ours to look at
            if mine:
                found.append(int(entry.name))
    return found


async def until_gone(directory: Path) -> None:
    async with asyncio.timeout(10):
        while envoys(directory):  # noqa: ASYNC110  # they are nobody's children
            await asyncio.sleep(0.05)


def is_refused(target: str) -> bool:
    host, _, port = target.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


async def test_it_serves_calls_status_and_admin_pages(directory: Path, scripts: dict[str, Script]) -> None:
    async with running(directory, settings()), GrpcChannel(await endpoint(directory)) as channel:
        assert await answer(channel, GET_ACTION_RESULT) == b"actioncache"
        status = (await get(directory, "/status")).json()
        assert status["up"]
        assert [one["name"] for one in status["services"]] == ["cas", "actioncache", "scheduler"]
        assert status["instances"] == ["main"]
        assert (await get(directory, "/")).status_code == 200
        assert (await get(directory, "/status", of="admin")).json()["service"] == "gateway"


async def test_its_metrics_count_calls_by_method_and_outcome(directory: Path, scripts: dict[str, Script]) -> None:
    async with running(directory, settings()), GrpcChannel(await endpoint(directory)) as channel:
        await answer(channel, GET_ACTION_RESULT)
        with pytest.raises(Unimplemented):
            await answer(channel, replace(GET_ACTION_RESULT, path="/of.our/Invention"))
        text = (await get(directory, "/metrics", of="admin")).text
    counted = [line for line in text.splitlines() if "GetActionResult" in line or "ActionCache" in line]
    assert any("success" in line and line.endswith(" 1") for line in counted), text
    assert any(line.startswith("process_cpu_seconds_total") for line in text.splitlines())
    assert "Invention" not in text


async def test_sigterm_ends_it_and_its_envoy(directory: Path, scripts: dict[str, Script]) -> None:
    async with running(directory, settings()) as process:
        target = await endpoint(directory)
        assert len(envoys(directory)) == 2
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert envoys(directory) == []
    assert is_refused(target)


async def test_sigkill_leaves_nothing_behind_and_the_next_one_starts_at_once(directory: Path) -> None:
    async with running(directory, settings()) as process:
        target = await endpoint(directory)
        process.kill()
        await process.communicate()
    async with running(directory, settings(listen=target)):
        assert await endpoint(directory) == target
    await until_gone(directory)
    assert is_refused(target)


async def test_when_envoy_dies_the_gateway_ends_with_an_error(directory: Path) -> None:
    async with running(directory, settings()) as process:
        guardian, envoy = sorted(envoys(directory))
        os.kill(envoy, signal.SIGKILL)
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "Envoy ended by itself" in errors.decode().splitlines()[-1]
    assert guardian not in envoys(directory)


async def test_when_the_guardian_is_killed_envoy_goes_with_it(directory: Path) -> None:
    async with running(directory, settings()) as process:
        os.kill(min(envoys(directory)), signal.SIGKILL)
        await process.communicate()
        await until_gone(directory)
    assert process.returncode == 1


async def test_other_machines_are_let_in_only_when_the_settings_say_so(directory: Path) -> None:
    assert "write auth.trust_network: true" in await refusal(directory, settings(listen="0.0.0.0:0"))
    async with running(directory, settings(listen="0.0.0.0:0") | {"auth": {"trust_network": True}}):
        assert (await endpoint(directory)).startswith("0.0.0.0:")


@pytest.mark.parametrize("key", ["listen", "console", "admin"])
async def test_a_port_in_use_is_one_line_that_names_port_and_key(directory: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        lines = (await refusal(directory, settings(**{key: f"127.0.0.1:{port}"}))).splitlines()
    assert f"gateway.{key}" in lines[-1]
    assert str(port) in lines[-1]
    assert envoys(directory) == []


async def test_a_second_gateway_on_the_same_directory_is_refused(directory: Path) -> None:
    async with running(directory, settings()):
        other = settings(admin="unix:other-admin.sock", console="unix:other-console.sock")
        assert "gateway.directory: another gateway uses gateway" in await refusal(directory, other)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (settings(threads=0), "gateway.threads"),
        (settings(drain_seconds=-1), "gateway.drain_seconds"),
        (settings(listen="50051"), "gateway.listen"),
        (settings(listen="no.such.name:1") | {"auth": {"trust_network": True}}, "gateway.listen"),
        (settings(envoy="/no/such/envoy"), "gateway.envoy: there is no file /no/such/envoy"),
        (settings(port=1), "gateway.port: unknown key"),
        (settings() | {"endpoints": {"cas": "cas"}}, "endpoints.cas: 'cas' is not a target"),
    ],
)
async def test_settings_that_cannot_be_used_are_refused_with_their_key(
    directory: Path, data: Mapping[str, Any], words: str
) -> None:
    assert words in await refusal(directory, data)
