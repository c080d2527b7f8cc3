"""The services of a grid, as `gridwright up` knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Service:
    """One service: how it is called, shown and stopped."""

    name: str
    #: Parameter of the ANSI sequence that colours its name.
    colour: int
    #: How long it may take to end what it has begun; then it is killed.
    stop_seconds: float

    @property
    def module(self) -> str:
        """What ``python -m`` runs."""
        return f"gridwright_{self.name}"


CAS = Service("cas", colour=34, stop_seconds=15)
ACTIONCACHE = Service("actioncache", colour=35, stop_seconds=15)
SCHEDULER = Service("scheduler", colour=33, stop_seconds=15)
WORKER = Service("worker", colour=32, stop_seconds=20)
GATEWAY = Service("gateway", colour=36, stop_seconds=15)

#: They may start in any order, and start all at once: each waits for those that it needs.
SERVICES: Sequence[Service] = (CAS, ACTIONCACHE, SCHEDULER, WORKER, GATEWAY)

#: First who works, then who lets work in, then who keeps: a running action can still upload its outputs, its result
#: still be recorded, and its client still hear of it. What waits in the scheduler's queue is kept in its database.
STOP_ORDER: Sequence[Service] = (WORKER, GATEWAY, SCHEDULER, ACTIONCACHE, CAS)
