"""What is done again and again, so that nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from gridwright.errors import Unavailable
from gridwright_scheduler.database.replicas import Replica

log = structlog.get_logger(__name__)

_ROUND_SECONDS = 1.0

#: The rounds from one time to the next that some duties are done.
EACH_ROUND = 1
SOON = 2
NOW_AND_THEN = 5
SELDOM = 10
HARDLY_EVER = 600


class Duty(NamedTuple):
    """One thing that is done again and again."""

    do: Callable[[], Awaitable[None]]
    every_rounds: int
    #: Whether one of the schedulers that share the tables does it for all.
    of_leader: bool = False


class Upkeep:
    """Makes the rounds, once a second; in the first all duties are done."""

    def __init__(self, duties: Sequence[Duty], replica: Replica) -> None:
        self._duties = duties
        self._replica = replica

    async def run(self) -> None:
        """Make rounds until cancelled."""
        number = 0
        while True:
            for duty in self._duties:
                if number % duty.every_rounds == 0 and (self._replica.leads or not duty.of_leader):
                    await _do(duty)
            number += 1
            await asyncio.sleep(_ROUND_SECONDS)


async def _do(duty: Duty) -> None:
    try:
        await duty.do()
    except Unavailable as error:
        log.warning("upkeep_failed", duty=getattr(duty.do, "__name__", ""), error=str(error))
