"""`gridwright why`, against an admin port."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gridwright.errors import NotFound
from gridwright.settings import Address
from gridwright.telemetry.admin import Readiness, admin_app, no_status, serving_http
from gridwright.telemetry.metrics import new_registry
from gridwright_cli.app import app
from gridwright_cli.exits import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE

ANSWER = {
    "operation": "main/a b",
    "stage": "queued",
    "since": "2026-11-22T00:00:00.000+00:00",
    "why": "no worker is connected",
}


@pytest.fixture
async def admin() -> AsyncIterator[str]:
    """The admin address of something that knows one operation."""

    async def explain(name: str) -> Mapping[str, Any]:
        if name != ANSWER["operation"]:
            raise NotFound(f"operation {name!r} not found")
        return ANSWER

    pages = admin_app("scheduler", new_registry(), Readiness(), no_status, answers={"why": explain})
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{Path(directory) / 'admin.sock'}"
        async with serving_http(pages, Address.parse(address)):
            yield address


async def why(*arguments: str) -> tuple[int, str, str]:
    """Run `gridwright why`; return its status, and what it said on stdout and stderr."""

    def run() -> tuple[int, str, str]:
        ended = CliRunner().invoke(app, ["why", *arguments], prog_name="gridwright")
        return ended.exit_code, ended.stdout, " ".join(ended.stderr.split())

    return await asyncio.to_thread(run)


async def test_it_says_in_a_line_what_the_scheduler_says(admin: str) -> None:
    status, said, _ = await why("main/a b", "--admin", admin)
    assert (status, said) == (0, "queued since 2026-11-22T00:00:00.000+00:00: no worker is connected\n")


async def test_it_prints_all_of_it_as_json(admin: str) -> None:
    status, said, _ = await why("main/a b", "--admin", admin, "--json")
    assert (status, json.loads(said)) == (0, ANSWER)


async def test_an_operation_that_is_not_known_is_an_error(admin: str) -> None:
    status, _, complaint = await why("main/c", "--admin", admin)
    assert (status, complaint) == (EXIT_FAILED, "gridwright: operation 'main/c' not found")


async def test_nobody_at_the_address_is_an_error(tmp_path: Path) -> None:
    assert (await why("main/c", "--admin", f"unix:{tmp_path}/none.sock"))[0] == EXIT_UNAVAILABLE


async def test_an_address_that_is_none_is_an_error() -> None:
    assert (await why("main/c", "--admin", "nowhere"))[0] == EXIT_USAGE
