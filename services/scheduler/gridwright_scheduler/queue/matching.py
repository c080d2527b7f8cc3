"""Which bot is given which of the waiting actions."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from itertools import islice
from typing import NamedTuple

from gridwright_scheduler.queue.names import ActionId, BotKey, PlatformId, SessionName
from gridwright_scheduler.queue.platform import Offer, Requirements, serves


class IdleWorker(NamedTuple):
    """A bot that waits for work, and for how many actions it has room."""

    bot: BotKey
    offer: Offer
    free_slots: int
    #: The session in which it waits.
    session: SessionName = SessionName("")


class Candidate(NamedTuple):
    """An action that waits for a bot."""

    #: Smaller is sooner (checklist EXE-21).
    priority: int
    #: Orders actions of one priority; see ``queue.fair_order``. One that is requeued keeps it, and so comes first.
    tag: float
    #: Orders actions of one tag: when the action was first queued.
    sequence: int
    action_id: ActionId
    requirements: Requirements
    #: Bots that it is not to be given to.
    avoid: tuple[str, ...] = ()


class Assignment(NamedTuple):
    """An action that a bot is to run."""

    bot: BotKey
    action_id: ActionId


def match(idle_workers: Collection[IdleWorker], candidates: Collection[Candidate]) -> list[Assignment]:
    """Give the most urgent of *candidates* to bots that can run them, spread over equal bots.

    A bot that offers less is preferred, so that those which can do more stay free for what needs them.
    """
    rooms: defaultdict[Offer, deque[IdleWorker]] = defaultdict(deque)
    for worker in idle_workers:
        if worker.free_slots > 0:
            rooms[worker.offer].append(worker)
    offers = sorted(rooms, key=lambda offer: len(offer.properties))
    assignments = []
    for candidate in sorted(candidates):
        if not rooms:
            break
        for offer in offers:
            if offer not in rooms or not serves(offer, candidate.requirements):
                continue
            if (bot := _take_slot(rooms, offer, candidate.avoid)) is not None:
                assignments.append(Assignment(bot, candidate.action_id))
                break
    return assignments


def foremost(
    idle_workers: Collection[IdleWorker],
    needs: Mapping[PlatformId, Requirements],
    heads: Mapping[PlatformId, tuple[int, float, int]],
) -> list[PlatformId]:
    """Return those of the platforms in *needs* of which :func:`match` could give something to *idle_workers*.

    *heads* are the priority, tag and sequence of the first action of each. As many platforms as there are slots have
    an action in front of all others, so a platform behind these gets none.
    """
    slots = sum(worker.free_slots for worker in idle_workers)
    order = sorted(heads, key=lambda platform: heads[platform])
    found: dict[PlatformId, None] = {}
    for offer in {worker.offer for worker in idle_workers}:
        found.update(dict.fromkeys(islice((one for one in order if serves(offer, needs[one])), slots)))
    return list(found)


def _take_slot(rooms: defaultdict[Offer, deque[IdleWorker]], offer: Offer, avoid: Collection[str]) -> BotKey | None:
    """Use up one slot of the next bot with *offer*, which goes to the end of the line; None: all are in *avoid*."""
    line = rooms[offer]
    if avoid:
        for _ in range(len(line)):
            if line[0].bot.bot_id not in avoid:
                break
            line.rotate(-1)
        else:
            return None
    worker = line.popleft()
    if worker.free_slots > 1:
        line.append(worker._replace(free_slots=worker.free_slots - 1))
    elif not line:
        del rooms[offer]
    return worker.bot
