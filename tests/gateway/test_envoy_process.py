"""How an Envoy begins and ends."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from google.protobuf.wrappers_pb2 import BytesValue

from gridwright.errors import ConfigurationError
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_gateway.envoy_config import write_validated
from gridwright_gateway.envoy_process import EnvoyEnded, running_envoy
from gridwright_gateway.envoy_program import find_envoy
from gridwright_gateway.routing.envoy import Gateway, Part, render
from gridwright_gateway.routing.table import Backend
from gridwright_gateway.routing.targets import Endpoint, Host, Pipe, parse_target
from tests.gateway.conftest import envoy, options, plan
from tests.gateway.echo import Script
from tests.gateway.test_calls import EXECUTE, GET_ACTION_RESULT, answer


@pytest.mark.parametrize("listen", [Host("127.0.0.1", 0), Host("::1", 1), Host("0.0.0.0", 50051), Pipe("run/gateway")])
@pytest.mark.parametrize("target", ["unix:run/cas.sock", "[::1]:1", "dns:///cas:1", "ipv4:10.0.0.1:1,10.0.0.2:1"])
async def test_envoy_accepts_what_is_rendered(directory: Path, listen: Endpoint, target: str) -> None:
    backends = {backend: parse_target(target, key="endpoints") for backend in Backend}
    document = render(Gateway(listen, backends, str(directory / "admin.sock"), {}))
    config = await write_validated(document, directory, program=find_envoy(None))
    assert yaml.safe_load(config.read_text()) == document
    assert os.listdir(directory) == [config.name]


async def test_what_envoy_refuses_is_not_put_in_place_and_its_words_are_passed_on(directory: Path) -> None:
    document: Part = {**render(plan(directory)), "no_such_field": 1}
    with pytest.raises(ConfigurationError, match="no_such_field"):
        await write_validated(document, directory, program=find_envoy(None))
    assert os.listdir(directory) == ["envoy.new.yaml"]


async def test_a_port_in_use_is_an_error_that_names_the_setting(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        gateway = plan(directory, Host("127.0.0.1", other.getsockname()[1]))
        with pytest.raises(ConfigurationError, match=r"gateway\.listen: port \d+ on 127.0.0.1 is in use"):
            async with running_envoy(render(gateway), gateway.listen, options(directory), on_end=lambda: None):
                pass


async def test_the_port_of_another_gateway_is_in_use_too(directory: Path) -> None:
    async with envoy(directory) as target:
        gateway = plan(directory / "other", Host("127.0.0.1", int(target.rpartition(":")[2])))
        (directory / "other").mkdir()
        with pytest.raises(ConfigurationError, match="is in use"):
            async with running_envoy(
                render(gateway), gateway.listen, options(directory / "other"), on_end=lambda: None
            ):
                pass


async def test_two_gateways_run_side_by_side(directory: Path, scripts: dict[str, Script]) -> None:
    other = directory / "other"
    other.mkdir()
    for backend in scripts:
        (other / f"{backend}.sock").symlink_to(directory / f"{backend}.sock")
    async with envoy(directory) as one, envoy(other) as two, GrpcChannel(one) as first, GrpcChannel(two) as second:
        assert one != two
        assert await answer(first, GET_ACTION_RESULT) == await answer(second, GET_ACTION_RESULT) == b"actioncache"


async def test_a_program_that_ends_at_once_is_reported_with_its_words(directory: Path) -> None:
    program = directory / "envoy"
    program.write_text("#!/bin/sh\n[ $1 = --mode ] && exit 0\necho no such luck\nexit 3\n")
    program.chmod(0o755)
    gateway = plan(directory)
    with pytest.raises(EnvoyEnded, match=r"ended with status 3; its last words:\nno such luck"):
        async with running_envoy(
            render(gateway), gateway.listen, replace(options(directory), program=program), on_end=lambda: None
        ):
            pass


async def test_calls_in_flight_may_finish_while_new_connections_are_refused(
    directory: Path, scripts: dict[str, Script]
) -> None:
    scheduler = scripts["scheduler"]
    gateway = plan(directory)
    running = running_envoy(render(gateway), gateway.listen, options(directory), on_end=lambda: None)
    bound = await running.__aenter__()
    assert isinstance(bound, Host)
    async with GrpcChannel(f"{bound.name}:{bound.port}") as channel:
        stream = channel.unary_stream(EXECUTE, BytesValue(value=b"the end"), timeout=30)
        assert (await anext(stream)).value == b"scheduler"
        leaving = asyncio.create_task(running.__aexit__(None, None, None))
        await _until_refused(bound)
        assert not leaving.done()
        scheduler.go_on.set()
        assert [response.value async for response in stream] == [b"the end"]
        await leaving


async def _until_refused(address: Host) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(address.name, address.port)
            except OSError:
                return
            writer.close()
            await writer.wait_closed()
