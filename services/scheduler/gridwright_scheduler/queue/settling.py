"""How a leased action goes on once its lease, or what follows the lease, has come to an end."""

from __future__ import annotations

from typing import NamedTuple

from google.rpc import code_pb2

from gridwright_scheduler.queue.responses import failed
from gridwright_scheduler.queue.states import ActionState


class Finish(NamedTuple):
    """There is an answer for the client."""

    #: A serialised ExecuteResponse.
    response: bytes
    #: Whether its status is OK; only then may others that ask for the same action be given it.
    succeeded: bool
    #: Whether its result goes to the action cache before the client hears of it (checklist POL-12).
    cacheable: bool


class CheckInputs(NamedTuple):
    """A bot could not find an input: what is missing is to be found out."""

    reason: str


class Retry(NamedTuple):
    """This attempt came to nothing, through no fault of the action."""

    #: Names the worker and what happened, for the client that hears of the last attempt.
    reason: str
    counted: bool = True
    #: Whether the bot may have begun it: then one that is to be tried once is not tried again.
    begun: bool = True


class Announce(NamedTuple):
    """What stood between an action's result and its clients is done."""


Outcome = Finish | CheckInputs | Retry | Announce

#: Leases that an action may have, for each attempt that it may have: many come to nothing without being an attempt, and
#: workers that come and go all the time would have it for ever.
_LEASES_PER_ATTEMPT = 3


class Facts(NamedTuple):
    """What of an action matters here."""

    state: ActionState
    #: What became of the attempts that have come to nothing.
    failures: tuple[str, ...]
    response: bytes | None
    succeeded: bool
    #: Whether the first attempt is the only one.
    no_retry: bool = False
    #: What became of the leases that do not count as attempts.
    uncounted: tuple[str, ...] = ()
    #: How many leases the action has had.
    leases: int = 0


def concerns(outcome: Outcome, facts: Facts, *, told: bool) -> bool:
    """Whether *outcome* is about the action as *facts* have it, and not as it was a moment ago.

    Who found a lease overdue, or its bot silent, may come late, and so may the bot itself, if *told* says that it
    tells: when the action is COMPLETING, a result that is there stays, and the rest is for whoever completes it.
    """
    if facts.state is not ActionState.COMPLETING:
        return True
    return not told if facts.response is None else isinstance(outcome, Announce)


def settle(facts: Facts, outcome: Outcome, *, max_attempts: int) -> Facts:
    """Return the action as *outcome* leaves it; its lease is over in any case.

    A COMPLETING action without a response is one whose inputs are being looked for.
    """
    match outcome:
        case Finish(response, succeeded, cacheable):
            state = ActionState.COMPLETING if cacheable else ActionState.COMPLETED
            return facts._replace(state=state, response=response, succeeded=succeeded)
        case CheckInputs():
            return facts._replace(state=ActionState.COMPLETING, response=None)
        case Announce():
            return facts._replace(state=ActionState.COMPLETED)
        case Retry(reason, counted, begun):
            failures = (*facts.failures, reason) if counted else facts.failures
            uncounted = facts.uncounted if counted else (*facts.uncounted, reason)
            after = facts._replace(failures=failures, uncounted=uncounted)
            if facts.no_retry and begun:
                # Of a code on which clients do not try again by themselves.
                text = f"not tried again, as the platform property retry=never asks: {reason}"
                response = failed(code_pb2.FAILED_PRECONDITION, text)
            elif len(failures) >= max_attempts:
                text = f"gave up after {len(failures)} attempts: " + "; ".join(failures)
                response = failed(code_pb2.UNAVAILABLE, text)
            elif facts.leases >= _LEASES_PER_ATTEMPT * max_attempts:
                text = f"gave up after it was given to workers {facts.leases} times: "
                response = failed(code_pb2.UNAVAILABLE, text + "; ".join((*failures, *uncounted)))
            else:
                return after._replace(state=ActionState.QUEUED, response=None)
            return after._replace(state=ActionState.COMPLETED, response=response, succeeded=False)
