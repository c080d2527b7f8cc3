"""What stands between a queued action and a worker."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from gridwright_scheduler.queue.platform import (
    Offer,
    Requirements,
    in_words,
    lacking,
    serves,
    why_nobody_serves,
)

_OURS_ONLY = (
    "only a Gridwright worker can take it: a stock worker would know neither its digest function nor its output_files "
    "and output_directories"
)


class Workers(NamedTuple):
    """Those bots of one instance that offer the same."""

    offer: Offer
    connected: int
    #: So many of them take work.
    healthy: int
    #: So many of those have room for an action.
    free: int


class Shortage(NamedTuple):
    """Why no worker has an action yet."""

    #: Workers that could run it, whatever they do now.
    able: int
    #: Those of them that have room for it.
    free: int
    #: Properties, in words, that no worker has.
    lacks_any: tuple[str, ...]
    #: Properties, in words, that no worker with room has.
    lacks_free: tuple[str, ...]
    #: Whether workers other than ours are not given it, whatever they offer.
    ours_only: bool
    #: All of that for a person.
    why: str


def shortage(requirements: Requirements, workers: Collection[Workers]) -> Shortage:
    """Return what *workers*, all those of the action's instance, lack to run an action with *requirements*."""
    able = [one for one in workers if serves(one.offer, requirements)]
    with_room = [one.offer for one in workers if one.free]
    return Shortage(
        able=sum(one.connected for one in able),
        free=sum(one.free for one in able),
        lacks_any=_named(requirements, [one.offer for one in workers]),
        lacks_free=_named(requirements, with_room),
        ours_only=requirements.ours_only,
        why=_why(requirements, workers, able, with_room),
    )


def _why(
    requirements: Requirements, workers: Collection[Workers], able: Collection[Workers], with_room: Collection[Offer]
) -> str:
    if not able:
        reason = why_nobody_serves(requirements, [one.offer for one in workers])
    elif free := sum(one.free for one in able):
        return f"{_workers(free)} with room for it will be given it in its turn"
    elif healthy := sum(one.healthy for one in able):
        reason = f"{_workers(healthy)} could run it, and all are busy"
        if with_room:
            reason += f"; {_why_not_those(requirements, with_room)}"
    else:
        connected = sum(one.connected for one in able)
        reason = f"{_workers(connected)} could run it, but take no work: unhealthy, or about to leave"
    return f"{reason}; {_OURS_ONLY}" if requirements.ours_only else reason


def _why_not_those(requirements: Requirements, with_room: Collection[Offer]) -> str:
    """Say why none of the workers *with_room* can have it."""
    if lacks := _named(requirements, with_room):
        return f"no worker with room has {', '.join(lacks)}"
    if requirements.ours_only and not any(offer.ours for offer in with_room):
        return "no worker with room is Gridwright's"
    return "no worker with room has all that it asks for"


def _named(requirements: Requirements, offers: Collection[Offer]) -> tuple[str, ...]:
    return tuple(in_words(name, value) for name, value in lacking(requirements, offers))


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
