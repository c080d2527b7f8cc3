"""How the process of a service is run: settings, logs, signals, and a bounded end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from gridwright.errors import ConfigurationError
from gridwright.settings import Address, GridSettings, load_settings
from gridwright.telemetry.admin import Answer, MetricsText, Readiness, StatusReport, admin_app, no_status, serving_http
from gridwright.telemetry.logging import configure_logging
from gridwright.telemetry.metrics import new_registry
from gridwright.version import VERSION
from gridwright.wire.process_memory import share_one_heap

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=GridSettings)

#: Exit status for settings that cannot be used, as sysexits.h has it; a supervisor need not try again.
EXIT_CONFIG = 78
#: Exit status for a fault that only a new process can be without; a supervisor is to start one.
EXIT_FAULT = 70


class Process:
    """What an application needs of the process that it runs in."""

    def __init__(self) -> None:
        #: Set on SIGTERM or SIGINT: take no new work, and end what is held open.
        self.stopping = asyncio.Event()
        self.registry: CollectorRegistry = new_registry()
        self.readiness = Readiness()
        #: Why this process ends by itself, if it does.
        self.fault: str | None = None

    def fail(self, why: str) -> None:
        """End in good order, with an exit status that asks for a new process."""
        if self.fault is None:
            self.fault = why
            log.error("this process cannot go on, and ends", why=why)
            self.stopping.set()

    @asynccontextmanager
    async def admin(
        self,
        service: str,
        listen: Address,
        status: StatusReport = no_status,
        more_metrics: MetricsText | None = None,
        answers: Mapping[str, Answer] | None = None,
    ) -> AsyncIterator[None]:
        """Serve the admin pages while the block runs, which is when the process is ready until it drains."""
        pages = admin_app(service, self.registry, self.readiness, status, more_metrics, answers)
        async with serving_http(pages, listen):
            self.readiness.ready = True
            try:
                yield
            finally:
                self.readiness.ready = False


Application = Callable[[S, Process], AbstractAsyncContextManager[None]]


def run(service: str, model: type[S], application: Application[S]) -> None:
    """Run *application* until SIGTERM or SIGINT; the whole of a service's ``main()``."""
    parser = argparse.ArgumentParser(prog=f"gridwright-{service}", description=f"The {service} service of Gridwright.")
    parser.add_argument("--config", type=Path, help="the grid's settings file (YAML)")
    parser.add_argument("--check", action="store_true", help="read the settings, say what is wrong with them, and end")
    parser.add_argument("--version", action="version", version=VERSION)
    arguments = parser.parse_args()
    with _refusing(service):
        settings = load_settings(model, path=arguments.config, environ=os.environ)
    if not arguments.check:
        serve(service, settings, application)


def serve(service: str, settings: S, application: Application[S]) -> None:
    """Run *application* with *settings* until SIGTERM or SIGINT; end this process if it fails."""
    share_one_heap()
    configure_logging(service, level=settings.log.level, format_=settings.log.format)
    with _refusing(service), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        fault = runner.run(_run(application, settings))
    if fault is not None:
        sys.exit(EXIT_FAULT)


@contextmanager
def _refusing(service: str) -> Iterator[None]:
    """End this process, and say why, if its settings turn out to be unusable."""
    try:
        yield
    except ConfigurationError as error:
        print(f"gridwright-{service}: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


async def _run(application: Application[S], settings: S) -> str | None:
    """Return why it had to end, or None if it was asked to."""
    process = Process()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stopping.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(application(settings, process))
        log.info("started", version=VERSION)
        await process.stopping.wait()
        process.readiness.ready = False
        log.info("draining")
    log.info("stopped")
    return process.fault
