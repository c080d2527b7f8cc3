"""What a bot's report means against the leases that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from gridwright_scheduler.queue.names import LeaseId

#: How often a lease is offered to a bot that answers without it, before another bot gets it.
MAX_OFFERS = 3


class LeaseState(IntEnum):
    """The states of a lease; the numbers are those of the Remote Workers API."""

    UNSPECIFIED = 0
    PENDING = 1
    ACTIVE = 2
    COMPLETED = 4
    CANCELLED = 5


class Given(NamedTuple):
    """A lease that a bot was given."""

    #: In how many answers to the bot it stood.
    offers: int
    #: In how many reports of the bot it was ACTIVE.
    reports: int


class Reconciled(NamedTuple):
    """Each lease of a report, or missing from it, stands in exactly one of these."""

    #: The bot is at it, or about to be: to be listed in the answer.
    kept: tuple[LeaseId, ...]
    #: The bot is through: to be settled, and absent from the answer (checklist BOT-15).
    completed: tuple[LeaseId, ...]
    #: Given, and the bot does not list it: the answer was lost, so it is offered once more (BOT-13).
    offered_again: tuple[LeaseId, ...]
    #: The bot gave it up without a result: for another attempt.
    given_up: tuple[LeaseId, ...]
    #: Not the bot's, or not any more: absent from the answer, so that the bot drops it (BOT-11).
    dropped: tuple[LeaseId, ...]
    #: Completed and not the bot's: told twice, or too late; of no effect (BOT-14, BOT-30).
    superfluous: tuple[LeaseId, ...]


def reconcile(given: Mapping[LeaseId, Given], reported: Mapping[LeaseId, int]) -> Reconciled:
    """Compare *reported*, the lease states that a bot tells, with what it was *given*.

    A transition that makes no sense (ACTIVE back to PENDING) is kept as it was (BOT-12): an
    error would make a stock worker kill its job and exit.
    """
    found = Reconciled((), (), (), (), (), ())
    lists: dict[str, list[LeaseId]] = {name: [] for name in found._fields}
    for lease_id, state in reported.items():
        lists[_meaning(lease_id in given, state)].append(lease_id)
    for lease_id, lease in given.items():
        if lease_id not in reported:
            gone = lease.reports > 0 or lease.offers >= MAX_OFFERS
            lists["given_up" if gone else "offered_again"].append(lease_id)
    return Reconciled(**{name: tuple(leases) for name, leases in lists.items()})


def _meaning(ours: bool, state: int) -> str:
    match state:
        case LeaseState.COMPLETED:
            return "completed" if ours else "superfluous"
        case _ if not ours:
            return "dropped"
        case LeaseState.CANCELLED:
            return "given_up"
        case _:
            return "kept"
