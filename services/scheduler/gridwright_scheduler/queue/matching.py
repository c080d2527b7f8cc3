"""Which bot is given which of the waiting actions."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection
from typing import NamedTuple

from gridwright_scheduler.queue.names import ActionId, BotKey
from gridwright_scheduler.queue.platform import Offer, Requirements, serves


class IdleWorker(NamedTuple):
    """A bot that waits for work, and for how many actions it has room."""

    bot: BotKey
    offer: Offer
    free_slots: int


class Candidate(NamedTuple):
    """An action that waits for a bot."""

    #: Smaller is sooner (checklist EXE-21).
    priority: int
    #: Orders actions of one priority: when the action was first queued, so one that is requeued comes first.
    sequence: int
    action_id: ActionId
    requirements: Requirements


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
            if offer in rooms and serves(offer, candidate.requirements):
                assignments.append(Assignment(_take_slot(rooms, offer), candidate.action_id))
                break
    return assignments


def _take_slot(rooms: defaultdict[Offer, deque[IdleWorker]], offer: Offer) -> BotKey:
    """Use up one slot of the next bot with *offer*, which then goes to the end of the line."""
    line = rooms[offer]
    worker = line.popleft()
    if worker.free_slots > 1:
        line.append(worker._replace(free_slots=worker.free_slots - 1))
    elif not line:
        del rooms[offer]
    return worker.bot
