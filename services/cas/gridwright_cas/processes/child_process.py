"""One run of a child, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

import structlog

from gridwright_cas.processes.child import CHILD_OPTION
from gridwright_cas.processes.report import MAX_REPORT_BYTES, QUESTION, Report
from gridwright_cas.processes.ticket import Ticket

log = structlog.get_logger(__name__)

#: A child that does not answer for so long is not ready.
_ANSWER_SECONDS = 3.0


class ChildProcess:
    """A child that runs, or did; made by :meth:`start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: asyncio.Event,
    ) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._writer = writer
        self._up = up
        #: What was asked and not answered yet: there is one question at a time, however many wait for its answer.
        self._answer: asyncio.Future[Report | None] | None = None
        self._listening = asyncio.create_task(self._listen(reader), name=f"reports of {process.pid}")

    @classmethod
    async def start(cls, ticket: Ticket, up: asyncio.Event) -> ChildProcess:
        """Start the process that *ticket* describes; *up* is set once it serves."""
        ours, theirs = socket.socketpair()
        described = ticket.descriptor()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gridwright_cas", CHILD_OPTION, str(os.getpid()), str(theirs.fileno())),
                stdin=described,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal is for the parent, which has the children drain.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(described)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_REPORT_BYTES)
        child = cls(process, reader, writer, up)
        child._ask()
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ran_seconds(self) -> float:
        """How long ago it was started."""
        return self._loop.time() - self._started

    async def report(self) -> Report | None:
        """Return how it is; None if it does not say so in time, or has ended."""
        answer = self._ask()
        await asyncio.wait({answer}, timeout=_ANSWER_SECONDS)
        return answer.result() if answer.done() else None

    async def wait(self) -> int:
        """Return its exit status, negative for a signal, once it has ended."""
        status = await self._process.wait()
        await self._listening
        return status

    async def end(self, within_seconds: float) -> bool:
        """Ask it to end, kill it if it takes longer, and wait for that; return whether it ended by itself."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(within_seconds):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            return False
        return True

    def _ask(self) -> asyncio.Future[Report | None]:
        if self._answer is None:
            self._answer = self._loop.create_future()
            if self._listening.done():
                self._answer.set_result(None)
            else:
                self._writer.write(QUESTION)
        return self._answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._up.set()
                self._answered(Report.decoded(line))
        except ConnectionError:
            pass  # it has died, which is heard of elsewhere
        except ValueError as error:
            log.error("a process of the CAS cannot be understood; it is not ready any more", pid=self.pid, why=error)
        finally:
            self._answered(None)
            self._writer.close()

    def _answered(self, report: Report | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(report)
