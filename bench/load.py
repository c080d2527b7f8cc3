"""A closed loop of calls: as soon as one ends, the next one begins."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took."""

    seconds: float
    #: Of each call, in the order in which they ended.
    latencies_seconds: Sequence[float]

    @property
    def per_second(self) -> float:
        return len(self.latencies_seconds) / self.seconds

    def latency_ms(self, percent: int) -> float:
        """Return the latency that *percent* of the calls kept."""
        return statistics.quantiles(self.latencies_seconds, n=100)[percent - 1] * 1000


async def closed_loop(count: int, in_flight: int, call: Callable[[int], Awaitable[None]]) -> Run:
    """Make *count* calls, *in_flight* at a time; *call* is given the number of each. The first error ends it."""
    numbers = iter(range(count))
    latencies: list[float] = []

    async def one_after_the_other() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await call(number)
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_the_other())
    return Run(time.perf_counter() - begun, latencies)
