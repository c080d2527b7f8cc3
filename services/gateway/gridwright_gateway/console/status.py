"""Asks the services of the grid how they are."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright.errors import GridwrightError
from gridwright.wire.health import SERVING, ask_health
from gridwright.wire.rpc import Channel

_TIMEOUT_SECONDS = 1.0
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How one service is."""

    name: str
    #: Its gRPC target, as the settings name it.
    endpoint: str
    up: bool
    #: Why it is not up; empty when it is.
    reason: str
    #: How long it took to say so; None when it did not answer.
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A service to ask."""

    name: str
    endpoint: str
    channel: Channel


class HealthChecks:
    """Asks all services at once, when somebody asks here; however many do, each service hears one call a second."""

    def __init__(self, upstreams: tuple[Upstream, ...], clock: Clock) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._asking = asyncio.Lock()
        self._answers: tuple[ServiceStatus, ...] = ()
        self._answered_at = 0.0

    async def __call__(self) -> tuple[ServiceStatus, ...]:
        """Return how each service is, as of a second ago or later."""
        async with self._asking:
            # A clock that was set back makes the answers stale, not fresh for ever.
            if not 0 <= self._clock.now() - self._answered_at < _FRESH_SECONDS:
                self._answers = tuple(await asyncio.gather(*map(_check, self._upstreams)))
                self._answered_at = self._clock.now()
            return self._answers


async def _check(upstream: Upstream) -> ServiceStatus:
    begun = time.perf_counter()
    try:
        health = await ask_health(upstream.channel, timeout=_TIMEOUT_SECONDS)
    except GridwrightError as error:
        return ServiceStatus(upstream.name, upstream.endpoint, False, str(error) or type(error).__name__, None)
    latency_ms = round((time.perf_counter() - begun) * 1000, 2)
    if health == SERVING:
        return ServiceStatus(upstream.name, upstream.endpoint, True, "", latency_ms)
    return ServiceStatus(upstream.name, upstream.endpoint, False, f"it says {health}", latency_ms)
