"""The schedulers that share the tables, and which of them are alive."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, bindparam, delete, exists, select

from gridwright_scheduler.database.dialect import Upsert
from gridwright_scheduler.database.schema import replicas
from gridwright_scheduler.queue.names import ReplicaId

#: A replica that was not seen for so long, by the clock of the database, is dead.
DEAD_AFTER_SECONDS = 10.0


def _new_id() -> ReplicaId:
    return ReplicaId(uuid.uuid4().hex)


@dataclass(slots=True)
class Replica:
    """This process among the schedulers that share the tables, as it last saw itself and them.

    One that has the tables to itself leads, and is alone, for ever.
    """

    #: Random: it is another replica after a restart.
    id: ReplicaId = field(default_factory=_new_id)
    #: Whether what one of them is to do falls to this one. Two may believe so for a moment, hence it is all such that
    #: doing it twice does no harm.
    leads: bool = True
    #: Whether nobody else is there to be told of anything.
    alone: bool = True


class Seen(NamedTuple):
    """A replica that is alive, or was when it was last seen."""

    id: ReplicaId
    started_at: float
    seen_at: float


_APPEAR = Upsert(replicas, [replicas.c.id], change=lambda refused: {"seen_at": refused.seen_at})
_ALL = select(replicas)


def appear(connection: Connection, replica: ReplicaId, *, now: float) -> Sequence[Seen]:
    """Note that *replica* is alive, also if its row was deleted meanwhile; return who is, those longest here first.

    *now* is the time of the database.
    """
    connection.execute(_APPEAR.on(connection), {"id": replica, "started_at": now, "seen_at": now})
    rows = connection.execute(_ALL).all()
    alive = [Seen(ReplicaId(row.id), row.started_at, row.seen_at) for row in rows if row.seen_at >= alive_since(now)]
    return sorted(alive, key=lambda one: (one.started_at, one.id))


def leave(connection: Connection, replica: ReplicaId) -> None:
    """Let others take over at once what *replica* has: it ends in good order."""
    connection.execute(delete(replicas).where(replicas.c.id == replica))


def alive_since(now: float) -> float:
    """Return since when a replica must have been seen to be alive: the parameter of :func:`is_dead`."""
    return now - DEAD_AFTER_SECONDS


def is_dead(replica: Column[Any]) -> ColumnElement[bool]:
    """Return the condition that what a row has in the column *replica* is no living replica.

    It holds for the one that asks, too, where the tables are its own (SQLite): there nobody appears. The statement has
    the parameter ``alive_since``, of :func:`alive_since`.
    """
    alive = exists().where(replicas.c.id == replica, replicas.c.seen_at >= bindparam("alive_since"))
    return replica.is_(None) | ~alive
