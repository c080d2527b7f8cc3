"""The connection on which a scheduler hears of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import structlog

from gridwright_scheduler.database.topics import Topic

log = structlog.get_logger(__name__)

CHANNEL = "gridwright_scheduler"
_TOPICS = {topic.value: topic for topic in Topic}

#: How often the connection is asked whether it is still there: one that is cut off hears nothing, and no error.
_CHECK_SECONDS = 5.0
#: Bounds each answer of the server.
_ANSWER_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_FAULTS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class NoticeConnection:
    """Listens to one channel, over a connection of its own that is made anew whenever it breaks.

    A notice is lost while there is no connection, so every new one begins with all topics.

    Args:
        connect: makes a connection of asyncpg's.
    """

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._connect = connect
        #: The process of the server whose notices are our own, and of no interest; behind a pooler nobody knows it.
        self.ours: int | None = None

    async def listen(self, heard: Callable[[Topic], None]) -> None:
        """Call *heard* with each topic that somebody else notifies of, and with all when some may have been missed."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    connection = await self._connect()
            except (*_FAULTS, ValueError) as error:
                log.warning("notices_not_heard", error=str(error))
                listened = False
            else:
                try:
                    listened = await self._listen_on(connection, heard)
                finally:
                    connection.terminate()
            # Also a server that lets us in may be none to listen to: a standby is not.
            pause = _FIRST_PAUSE_SECONDS if listened else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _listen_on(self, connection: Any, heard: Callable[[Topic], None]) -> bool:
        """Return when *connection* has broken, and whether it was listened to until then."""
        broken = asyncio.Event()
        listened = False

        def notified(_connection: object, pid: int, _channel: str, payload: str) -> None:
            topic = _TOPICS.get(payload)
            if topic is not None and pid != self.ours:
                heard(topic)

        connection.add_termination_listener(lambda _: broken.set())
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.add_listener(CHANNEL, notified)
            listened = True
            for topic in Topic:
                heard(topic)
            while not broken.is_set():
                await _wait(broken, _CHECK_SECONDS)
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute("SELECT 1")
        except _FAULTS as error:
            log.warning("notices_not_heard", error=str(error) or "no answer in time")
        return listened


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
