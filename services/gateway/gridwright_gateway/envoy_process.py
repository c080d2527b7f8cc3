"""Runs one Envoy, from a rendered document to its bounded end."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from gridwright.errors import ConfigurationError
from gridwright.file_lock import lock_within
from gridwright_gateway import guardian
from gridwright_gateway.envoy_admin import EnvoyAdmin
from gridwright_gateway.envoy_config import write_validated
from gridwright_gateway.envoy_log import FORMAT, LEVELS, EnvoyLog
from gridwright_gateway.routing.envoy import LISTENER
from gridwright_gateway.routing.targets import Endpoint, Host

log = structlog.get_logger(__name__)

#: A gateway that was killed leaves an Envoy that ends within the guardian's grace; the next one waits for that.
_LOCK_SECONDS = 6.0
_START_SECONDS = 20.0
_END_SECONDS = 6.0
#: Neither a lock that comes free, nor Envoy that gets ready or idle, sends word; asking costs well under 1 ms.
_POLL_SECONDS = 0.02
_NO_ANSWER = (OSError, http.client.HTTPException)


class EnvoyEnded(Exception):
    """Envoy ended, or would not start, and nobody had asked it to; the text holds its last words."""


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """How an Envoy is run."""

    program: Path
    #: Holds the configuration, the admin socket and a lock; one gateway uses it at a time.
    directory: Path
    threads: int
    #: A level of ours, a key of ``envoy_log.LEVELS``.
    log_level: str
    drain_seconds: float

    @property
    def admin_socket(self) -> Path:
        return self.directory / "envoy-admin.sock"


@asynccontextmanager
async def running_envoy(
    document: Mapping[str, object], listen: Endpoint, options: EnvoyOptions, *, on_end: Callable[[], None]
) -> AsyncIterator[Endpoint]:
    """Run an Envoy with *document* while the block runs; yield where it listens.

    On leaving, clients are told to go, calls in flight have ``drain_seconds`` to finish, and
    then it ends. It ends as well when this process does, in whatever way. *on_end* is called
    when it has ended; if that was not by leaving the block, leaving it then raises EnvoyEnded.

    Raises:
        ConfigurationError: Envoy refuses the document, or what it needs is in use.
        EnvoyEnded: it did not start, or has ended by itself.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    admin = EnvoyAdmin(options.admin_socket)
    async with _sole_use(options.directory) as lock:
        config = await write_validated(document, options.directory, program=options.program)
        _refuse_used_port(listen)
        async with _guarded(_command(config, options), lock) as (process, words):
            bound = await _until_ready(admin, listen, process, words)
            ended = asyncio.create_task(process.wait(), name="envoy")
            ended.add_done_callback(lambda _: on_end())
            try:
                yield bound
            finally:
                if ended.done():
                    raise EnvoyEnded(f"Envoy ended by itself, with status {ended.result()}; {words}")
                await _drain(admin, ended, options.drain_seconds)


def _command(config: Path, options: EnvoyOptions) -> list[str]:
    return [
        *(str(options.program), "-c", str(config), "--concurrency", str(options.threads)),
        # Without these two, Envoys on one machine meet in shared memory.
        *("--use-dynamic-base-id", "--disable-hot-restart"),
        *("--log-level", LEVELS[options.log_level], "--log-format", FORMAT),
    ]


@asynccontextmanager
async def _sole_use(directory: Path) -> AsyncIterator[int]:
    """Hold the lock of *directory*; yield it, for Envoy to hold as well for as long as it lives."""
    lock = await lock_within(directory / "lock", _LOCK_SECONDS)
    if lock is None:
        raise ConfigurationError(
            f"gateway.directory: another gateway uses {directory}; stop it or choose another directory"
        )
    try:
        yield lock
    finally:
        os.close(lock)


def _refuse_used_port(listen: Endpoint) -> None:
    """Find out before Envoy does, whose words for it do not name the settings."""
    if not isinstance(listen, Host):
        return
    with socket.socket(socket.AF_INET6 if ":" in listen.name else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.name, listen.port))
            probe.listen()
        except OSError as error:
            where = f"gateway.listen: port {listen.port} on {listen.name}"
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(f"{where} is in use; stop what uses it or choose another port") from None
            raise ConfigurationError(f"{where} cannot be listened on: {error.strerror}") from None


@asynccontextmanager
async def _guarded(command: list[str], lock: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, EnvoyLog]]:
    """Run *command* under the guardian, to which standard input is a lifeline; both are gone after the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", guardian.__file__, *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=[lock],
        # Ctrl-C in a terminal is for this process, which drains.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = EnvoyLog()
    following = asyncio.create_task(words.follow(process.stdout), name="envoy log")
    try:
        yield process, words
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            log.error("Envoy's guardian did not end; killing both")
            process.kill()
            await process.wait()
        await following


async def _until_ready(
    admin: EnvoyAdmin, listen: Endpoint, process: asyncio.subprocess.Process, words: EnvoyLog
) -> Endpoint:
    """Return where Envoy listens, once it does."""
    give_up = time.monotonic() + _START_SECONDS
    while process.returncode is None and time.monotonic() < give_up:
        try:
            if await admin.is_ready():
                if isinstance(listen, Host) and listen.port == 0:
                    return Host(listen.name, await admin.port())
                return listen
        except _NO_ANSWER:
            pass  # its admin pages come up soon, or it ends
        await asyncio.sleep(_POLL_SECONDS)
    how = "did not get ready in time" if process.returncode is None else f"ended with status {process.returncode}"
    raise EnvoyEnded(f"Envoy {how}; {words}")


async def _drain(admin: EnvoyAdmin, ended: asyncio.Task[int], seconds: float) -> None:
    """End Envoy as soon as no call is in flight any more, after *seconds* at the latest."""
    give_up = time.monotonic() + seconds
    try:
        await admin.drain()
        while not ended.done() and time.monotonic() < give_up:
            if await admin.calls_in_flight(LISTENER) == 0:
                break
            await asyncio.sleep(_POLL_SECONDS)
        await admin.quit()
    except _NO_ANSWER as error:
        log.warning("Envoy did not answer while it was to drain", error=str(error))
