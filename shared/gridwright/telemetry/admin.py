"""The admin pages of a service: its health and metrics, over HTTP on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from gridwright.errors import ConfigurationError, NotFound, Unavailable
from gridwright.settings import Address
from gridwright.version import VERSION

#: What a service says of itself on /status, beside its name and version.
StatusReport = Callable[[], Awaitable[Mapping[str, Any]]]

#: What a service answers to a question about one thing, by the name of the thing.
#: Raises NotFound if there is no such thing, Unavailable if it cannot tell now.
Answer = Callable[[str], Awaitable[Mapping[str, Any]]]

#: Prometheus text of a program that the service runs.
MetricsText = Callable[[], Awaitable[bytes]]

_START_SECONDS = 10.0


#: Says why a part of the process cannot do its work just now, or None; called in a thread.
Check = Callable[[], str | None]


class Readiness:
    """Whether this process wants traffic: between start and drain, while its parts can do their work.

    Covers its own state only.
    """

    def __init__(self) -> None:
        self.ready = False
        self._checks: list[Check] = []

    def watch(self, check: Check) -> None:
        """Be unready while *check* finds something."""
        self._checks.append(check)

    def trouble(self) -> str | None:
        """Return why this process wants no traffic, or None."""
        if not self.ready:
            return "starting or draining"
        return "; ".join(filter(None, [check() for check in self._checks])) or None


def admin_app(
    service: str,
    registry: CollectorRegistry,
    readiness: Readiness,
    status: StatusReport,
    more_metrics: MetricsText | None = None,
    answers: Mapping[str, Answer] | None = None,
) -> FastAPI:
    """Return the admin pages: /healthz, /readyz, /status and /metrics, and /QUESTION/NAME for each of *answers*."""
    app = FastAPI(title=f"Gridwright {service}", version=VERSION, docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        """The process answers."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        """The process wants traffic."""
        trouble = await asyncio.to_thread(readiness.trouble)
        if trouble is None:
            return Response("ready\n", media_type="text/plain")
        return Response(f"not ready: {trouble}\n", status_code=503, media_type="text/plain")

    @app.get("/status")
    async def show_status() -> dict[str, Any]:
        """What the service says of itself."""
        return {"service": service, "version": VERSION, "ready": readiness.ready, **await status()}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        text = generate_latest(registry)
        if more_metrics is not None:
            text += await more_metrics()
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    for question, answer in (answers or {}).items():
        app.get(f"/{question}/{{name:path}}")(_page(answer))
    return app


def _page(answer: Answer) -> Callable[[str], Awaitable[dict[str, Any]]]:
    async def page(name: str) -> dict[str, Any]:
        try:
            return dict(await answer(name))
        except NotFound as error:
            raise HTTPException(404, str(error)) from None
        except Unavailable as error:
            raise HTTPException(503, str(error)) from None

    return page


async def no_status() -> Mapping[str, Any]:
    """A status report for a service that has nothing to add."""
    return {}


@asynccontextmanager
async def serving_http(app: FastAPI, listen: Address) -> AsyncIterator[int]:
    """Serve *app* while the block runs; yield the TCP port (0 for a Unix socket).

    Raises:
        ConfigurationError: the address cannot be listened on, being in use for one.
    """
    listener = _bind(listen)
    server = _Server(
        uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=2)
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http {listen}")
    try:
        async with asyncio.timeout(_START_SECONDS):
            await server.up.wait()
        yield 0 if listen.is_unix else listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """Uvicorn without its handlers of signals (the process has its own, in ``wire.server``), and with an event."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(listen: Address) -> socket.socket:
    host, port = listen.host_and_port
    family = socket.AF_UNIX if listen.is_unix else socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if path := listen.unix_path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            listener.bind(str(path))
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {listen} (HTTP): {error.strerror}; choose another") from None
    listener.setblocking(False)
    return listener
