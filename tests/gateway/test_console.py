"""The console: what it says of services that are up, down, or slow."""

from __future__ import annotations

from pathlib import Path

import httpx

from gridwright.testing.clock import FakeClock
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_gateway.console.pages import console_app
from gridwright_gateway.console.status import HealthChecks, ServiceStatus, Upstream
from tests.gateway.echo import echoing


async def test_a_service_that_is_up_and_one_that_is_down_are_told_apart(directory: Path) -> None:
    up, down = f"unix:{directory}/cas.sock", f"unix:{directory}/none.sock"
    async with echoing("cas", directory), GrpcChannel(up) as one, GrpcChannel(down) as other:
        checks = HealthChecks((Upstream("cas", up, one), Upstream("scheduler", down, other)), FakeClock())
        cas, scheduler = await checks()
    assert (cas.name, cas.endpoint, cas.up, cas.reason) == ("cas", up, True, "")
    assert cas.latency_ms is not None
    assert (scheduler.up, scheduler.latency_ms) == (False, None)
    assert "No such file or directory" in scheduler.reason


async def test_services_are_asked_once_a_second_however_often_somebody_looks(directory: Path) -> None:
    clock = FakeClock()
    target = f"unix:{directory}/cas.sock"
    async with GrpcChannel(target) as channel:
        checks = HealthChecks((Upstream("cas", target, channel),), clock)
        async with echoing("cas", directory):
            assert [one.up for one in await checks()] == [True]
        clock.advance(0.9)
        assert [one.up for one in await checks()] == [True]
        clock.advance(0.2)
        assert [one.up for one in await checks()] == [False]


async def page(path: str, *services: ServiceStatus) -> httpx.Response:
    async def report() -> tuple[ServiceStatus, ...]:
        return services

    app = console_app("grpc://127.0.0.1:50051", ["main", ""], report)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
        return await client.get(path)


CAS = ServiceStatus("cas", "unix:run/cas.sock", True, "", 0.4)
DOWN = ServiceStatus("scheduler", "scheduler:50073", False, "<refused>", None)


async def test_status_is_for_programs() -> None:
    status = (await page("/status", CAS, DOWN)).json()
    assert status.pop("version")
    assert status == {
        "endpoint": "grpc://127.0.0.1:50051",
        "instances": ["main", ""],
        "up": False,
        "services": [
            {"name": "cas", "endpoint": "unix:run/cas.sock", "up": True, "reason": "", "latency_ms": 0.4},
            {
                "name": "scheduler",
                "endpoint": "scheduler:50073",
                "up": False,
                "reason": "<refused>",
                "latency_ms": None,
            },
        ],
    }
    assert (await page("/status", CAS)).json()["up"]


async def test_the_page_is_for_people_and_shows_text_as_text() -> None:
    response = await page("/", CAS, DOWN)
    assert response.headers["content-type"].startswith("text/html")
    assert "grpc://127.0.0.1:50051" in response.text
    assert "&lt;refused&gt;" in response.text
    assert "<refused>" not in response.text
    assert "src=" not in response.text
