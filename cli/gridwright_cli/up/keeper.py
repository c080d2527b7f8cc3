"""Keeps one service running."""

from __future__ import annotations

import asyncio
import signal
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from gridwright.supervision import GiveUp, after_exit, describe_exit
from gridwright_cli.up.services import Service

#: How long a stopping service may still take once the user has asked twice.
_HURRIED_SECONDS = 1.0


class Running(Protocol):
    """One run of a service."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Which process it is."""

    @property
    @abstractmethod
    def ran_seconds(self) -> float:
        """How long ago it was started."""

    @abstractmethod
    async def wait(self) -> int:
        """Return its exit status, negative for a signal, once it has ended."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""


class ServiceGaveUp(Exception):
    """A service cannot run, and trying again would not help; its output says why."""

    def __init__(self, service: Service, status: int) -> None:
        super().__init__(f"{service.name} cannot use its settings")
        self.service = service
        self.status = status


class Keeper:
    """Starts one service, starts it again when it dies, and stops it when it is time.

    Args:
        service: which.
        start: starts it, and returns its run.
        say: tells the user.
        on_death: is told after each death that nobody asked for.
    """

    def __init__(
        self, service: Service, start: Callable[[Service], Running], say: Callable[[str], None], on_death: asyncio.Event
    ) -> None:
        self._service = service
        self._start = start
        self._say = say
        self._on_death = on_death
        self._stopping = asyncio.Event()
        self._run: Running | None = None

    async def keep(self) -> None:
        """Return once the service was stopped.

        Raises:
            ServiceGaveUp: it cannot run.
        """
        deaths = 0
        while not self._stopping.is_set():
            self._run = self._start(self._service)
            status = await self._run.wait()
            if self._stopping.is_set():
                return
            decision = after_exit(status, ran_seconds=self._run.ran_seconds, deaths=deaths)
            if isinstance(decision, GiveUp):
                raise ServiceGaveUp(self._service, status)
            deaths = decision.deaths
            self._on_death.set()
            self._say(
                f"{self._service.name} died ({describe_exit(status)}); restarting it in {decision.delay_seconds:g} s"
            )
            await _happens(self._stopping, decision.delay_seconds)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ask it to end, and kill it when its time is up, or soon after *hurry* is set."""
        self._stopping.set()
        if self._run is None:
            return
        ended = asyncio.create_task(self._run.wait())
        self._run.signal(signal.SIGTERM)
        if not await _ends(ended, self._service.stop_seconds, hurry):
            self._say(f"{self._service.name} does not end; killing it")
            self._run.signal(signal.SIGKILL)
        await ended


async def _ends(ended: asyncio.Task[int], seconds: float, hurry: asyncio.Event) -> bool:
    hurried = asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait({ended, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and hurried.done():
            await asyncio.wait({ended}, timeout=_HURRIED_SECONDS)
    finally:
        hurried.cancel()
    return ended.done()


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
