"""Locks what a turn is about before it begins, so that the turns of two schedulers never wait for each other."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, or_, select, union_all

from gridwright_scheduler.database.dialect import OneOf, locked
from gridwright_scheduler.database.schema import IN_FLIGHT, actions, operations


class Touched(NamedTuple):
    """The actions that commands are about, by what is known of them."""

    hashes: Sequence[str] = ()
    leases: Sequence[str] = ()
    operations: Sequence[str] = ()
    #: Of the hashes, what has succeeded since then, and what is not at its end.
    since: float = math.inf


#: What waits no longer has not waited for a lock.
_AT_ONCE_SECONDS = 0.01

_JOINABLE = or_(IN_FLIGHT, and_(actions.c.succeeded, actions.c.finished_at >= bindparam("since")))
_ROWS = (
    select(actions.c.id)
    .where(
        actions.c.id.in_(
            union_all(
                select(actions.c.id).where(OneOf(actions.c.hash, "hashes"), _JOINABLE),
                select(actions.c.id).where(OneOf(actions.c.lease_id, "leases")),
                select(operations.c.action_id).where(OneOf(operations.c.name, "names")),
            )
        )
    )
    .order_by(actions.c.id)
)
_LOCK = locked(_ROWS, actions)
_LOCK_THE_REST = locked(_ROWS, actions, wait=False)


def lock_first(connection: Connection, touched: Sequence[Touched]) -> None:
    """Lock the actions that the steps of a turn are about, in one order, until the turn ends.

    Each step locks its own in that order, too, but of two turns one may be at its second step
    and hold what the other, at its first, waits for: the database would find that out, in a
    second. If an action was inserted while locks were waited for, and another turn has it
    already, this one begins anew.
    """
    hashes = [key for one in touched for key in one.hashes]
    leases = [key for one in touched for key in one.leases]
    names = [key for one in touched for key in one.operations]
    if len(hashes) + len(leases) + len(names) < 2:
        return
    wanted = {
        "hashes": hashes,
        "leases": leases,
        "names": names,
        "since": min(one.since for one in touched),
    }
    begun = time.perf_counter()
    connection.execute(_LOCK, wanted).all()
    if time.perf_counter() - begun > _AT_ONCE_SECONDS:
        connection.execute(_LOCK_THE_REST, wanted).all()
