"""Keeps one child running."""

from __future__ import annotations

import asyncio
import signal
from os import EX_OSERR

import structlog

from gridwright.errors import ConfigurationError
from gridwright.supervision import GiveUp, after_exit, describe_exit
from gridwright_cas.processes.child_process import ChildProcess
from gridwright_cas.processes.report import Report
from gridwright_cas.processes.ticket import Ticket

log = structlog.get_logger(__name__)


class Keeper:
    """Starts one child, starts it again when it dies, and ends it when it is time.

    Args:
        end_seconds: how long it may take to end, before it is killed.
    """

    def __init__(self, ticket: Ticket, end_seconds: float) -> None:
        self._ticket = ticket
        self._end_seconds = end_seconds
        self._stopping = asyncio.Event()
        self._run: ChildProcess | None = None
        #: Set once it has served for the first time.
        self.up = asyncio.Event()
        self.restarts = 0

    @property
    def number(self) -> int:
        """Which of the processes it is."""
        return self._ticket.number

    @property
    def pid(self) -> int | None:
        """Which process it is just now; None while there is none."""
        return None if self._run is None else self._run.pid

    async def report(self) -> Report | None:
        """Return how the child is; None if there is none that answers."""
        return None if self._run is None else await self._run.report()

    def stop(self) -> None:
        """Have the child end; :meth:`keep` returns when it has."""
        self._stopping.set()

    async def keep(self) -> None:
        """Return once the child was ended.

        Raises:
            ConfigurationError: it cannot use its settings, and has said why.
        """
        deaths = 0
        while not self._stopping.is_set():
            status, ran_seconds = await self._once()
            if self._stopping.is_set():
                # One that has not got far yet does not hear the signal, and ends by it.
                if status not in (0, -signal.SIGTERM):
                    log.error("a process of the CAS ended badly", number=self.number, how=describe_exit(status))
                return
            decision = after_exit(status, ran_seconds=ran_seconds, deaths=deaths)
            if isinstance(decision, GiveUp):
                raise ConfigurationError(f"process {self.number} cannot use its settings; it has said above why")
            deaths = decision.deaths
            self.restarts += 1
            log.error(
                "a process of the CAS died; it is started again",
                number=self.number,
                how=describe_exit(status),
                delay_seconds=decision.delay_seconds,
            )
            await _happens(self._stopping, decision.delay_seconds)

    async def _once(self) -> tuple[int, float]:
        """Return exit status and duration of one run, which ends by itself or because it is time."""
        try:
            run = await ChildProcess.start(self._ticket, self.up)
        except OSError as error:
            log.error("a process of the CAS cannot be started", number=self.number, why=str(error))
            return EX_OSERR, 0.0
        self._run = run
        ended, stop = asyncio.create_task(run.wait()), asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not ended.done() and not await run.end(self._end_seconds):
            log.error("a process of the CAS did not end in time, and was killed", number=self.number, pid=run.pid)
        self._run = None
        return await ended, run.ran_seconds


async def _happens(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
