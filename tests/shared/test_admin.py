"""The admin pages: what monitoring and Kubernetes ask."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridwright.errors import ConfigurationError, NotFound, Unavailable
from gridwright.settings import Address
from gridwright.telemetry.admin import Readiness, admin_app, serving_http
from gridwright.telemetry.metrics import RpcMetrics, new_registry
from gridwright.version import VERSION
from gridwright.wire.process import Process


async def three_blobs() -> Mapping[str, Any]:
    return {"blobs": 3}


@asynccontextmanager
async def admin(listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[Process, int]]:
    process = Process()
    app = admin_app("probe", process.registry, process.readiness, three_blobs)
    async with serving_http(app, Address.parse(listen)) as port:
        yield process, port


async def get(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_a_process_that_answers_is_alive_before_it_is_ready() -> None:
    async with admin() as (process, port):
        assert (await get(port, "/healthz")).status_code == 200
        assert (await get(port, "/readyz")).status_code == 503
        process.readiness.ready = True
        assert (await get(port, "/readyz")).status_code == 200


async def test_status_tells_name_version_readiness_and_what_the_service_adds() -> None:
    async with admin() as (_, port):
        status = (await get(port, "/status")).json()
    assert status == {"service": "probe", "version": VERSION, "ready": False, "blobs": 3}


async def test_metrics_are_prometheus_text_of_rpcs_and_of_the_process() -> None:
    async with admin() as (process, port):
        RpcMetrics(process.registry).observer("/a.Service/Method")("OK", 0.02)
        answer = await get(port, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'gridwright_rpc_server_calls_total{code="OK",method="Method",service="a.Service"} 1.0' in answer.text
    assert 'gridwright_rpc_server_duration_seconds_bucket{le="0.025",method="Method"' in answer.text
    assert "process_resident_memory_bytes" in answer.text


async def test_a_service_answers_questions_of_its_own() -> None:
    async def colour(name: str) -> Mapping[str, Any]:
        if name == "unsure":
            raise Unavailable("ask again")
        if name != "the/sky":
            raise NotFound(f"no colour of {name}")
        return {"colour": "blue"}

    process = Process()
    app = admin_app("probe", process.registry, process.readiness, three_blobs, answers={"colour": colour})
    async with serving_http(app, Address.parse("127.0.0.1:0")) as port:
        assert (await get(port, "/colour/the/sky")).json() == {"colour": "blue"}
        unknown, unsure = await get(port, "/colour/the%20sea"), await get(port, "/colour/unsure")
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "no colour of the sea"})
    assert (unsure.status_code, unsure.json()) == (503, {"detail": "ask again"})


async def test_an_unknown_page_is_not_found() -> None:
    async with admin() as (_, port):
        assert (await get(port, "/docs")).status_code == 404


async def test_a_service_is_ready_while_its_admin_block_runs() -> None:
    process = Process()
    async with process.admin("probe", Address.parse("127.0.0.1:0")):
        assert process.readiness.ready
    assert not process.readiness.ready


async def test_admin_pages_can_be_served_on_a_unix_socket_in_a_directory_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    async with admin(f"unix:{path}") as (_, port):
        assert port == 0
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://admin/healthz")).text == "ok\n"


async def test_a_used_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=address):
            async with admin(address):
                pass


def test_two_registries_of_one_process_do_not_meet() -> None:
    RpcMetrics(new_registry())
    RpcMetrics(new_registry())
    assert not Readiness().ready
