import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridwright.errors import Unavailable
from gridwright.settings import Address
from gridwright_cli.up.readiness import has_session


@asynccontextmanager
async def admin_that_says(answer: bytes) -> AsyncIterator[Address]:
    """Serve one page, whatever is asked for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "admin.sock"
        async with await asyncio.start_unix_server(serve, path):
            yield Address(f"unix:{path}")


async def test_a_worker_with_a_session_is_ready() -> None:
    async with admin_that_says(b'HTTP/1.0 200 OK\r\n\r\n{"bots": {"state": "connected"}}') as admin:
        await has_session(admin)()


async def test_a_worker_without_one_is_not() -> None:
    async with admin_that_says(b'HTTP/1.0 200 OK\r\n\r\n{"bots": {"state": "connecting"}}') as admin:
        with pytest.raises(Unavailable, match="its session at the scheduler is connecting"):
            await has_session(admin)()


@pytest.mark.parametrize(
    "body", [b"", b"no JSON", b"null", b"[]", b"{}", b'{"bots": null}', b'{"bots": []}', b'{"bots": 1}', b"\xff"]
)
async def test_an_odd_status_page_is_not_ready_and_nothing_worse(body: bytes) -> None:
    async with admin_that_says(b"HTTP/1.0 200 OK\r\n\r\n" + body) as admin:
        with pytest.raises(Unavailable, match="does not say whether it has a session"):
            await has_session(admin)()


@pytest.mark.parametrize("answer", [b"", b"\r\n\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.0 +5 OK\r\n\r\n"])
async def test_what_is_no_http_is_not_ready_and_nothing_worse(answer: bytes) -> None:
    async with admin_that_says(answer) as admin:
        with pytest.raises(Unavailable, match="does not speak HTTP"):
            await has_session(admin)()
