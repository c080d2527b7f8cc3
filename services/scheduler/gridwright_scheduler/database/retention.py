"""Statements that delete what is old; of several schedulers that do so at once none waits for another."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, exists, select

from gridwright_scheduler.database.dialect import doomed
from gridwright_scheduler.database.schema import EVERY_PLATFORM, actions, in_state, platforms, replicas, virtual_times
from gridwright_scheduler.queue.states import ActionState

#: Rows that one transaction deletes at most.
CHUNK = 500
#: Priorities that one transaction forgets at most; each has a row for every platform that it was used with.
PRIORITIES = 50

_OF_ONE_PRIORITY = (actions.c.instance == virtual_times.c.instance, actions.c.priority == virtual_times.c.priority)
_IDLE_PRIORITIES = doomed(
    select(virtual_times.c.instance, virtual_times.c.priority)
    .where(
        # Which is the first row of each that is written: whoever does waits for it, and so for no other.
        virtual_times.c.platform_id == EVERY_PLATFORM,
        ~exists().where(in_state(ActionState.QUEUED), *_OF_ONE_PRIORITY),
        # Those may be queued again, in front of whatever has come meanwhile.
        ~exists().where(in_state(ActionState.EXECUTING, ActionState.COMPLETING), *_OF_ONE_PRIORITY),
    )
    .order_by(virtual_times.c.instance, virtual_times.c.priority)
    .limit(PRIORITIES),
    virtual_times,
)
_FORGET_PRIORITY = delete(virtual_times).where(
    virtual_times.c.instance == bindparam("b_instance"), virtual_times.c.priority == bindparam("b_priority")
)


def forget_finished(connection: Connection, *, before: float) -> int:
    """Delete some of the actions that finished before *before*, with their operations; return how many."""
    old = doomed(
        select(actions.c.id)
        .where(in_state(ActionState.COMPLETED), actions.c.finished_at < before)
        .order_by(actions.c.finished_at)
        .limit(CHUNK),
        actions,
    )
    return connection.execute(delete(actions).where(actions.c.id.in_(old.scalar_subquery()))).rowcount


def forget_platforms(connection: Connection, *, before: float) -> None:
    """Delete some of the platforms that no action has, and that no scheduler has begun to use since *before*.

    Schedulers remember which ones are there, and write anew when they began to use one well before it is old. How far
    fair queueing has come goes with them.
    """
    used = select(actions.c.platform_id).where(actions.c.platform_id == platforms.c.id)
    old = doomed(
        select(platforms.c.id)
        .where(platforms.c.used_at < before, ~used.exists())
        .order_by(platforms.c.id)
        .limit(CHUNK),
        platforms,
    )
    connection.execute(delete(platforms).where(platforms.c.id.in_(old.scalar_subquery())))
    there = exists().where(platforms.c.id == virtual_times.c.platform_id)
    connection.execute(delete(virtual_times).where(virtual_times.c.platform_id != EVERY_PLATFORM, ~there))


def forget_priorities(connection: Connection) -> int:
    """Forget how far fair queueing has come, of some priorities of which nothing is unfinished; return how many.

    What is queued next begins anew there. If that happens at this moment, it begins at what it finds in the line.
    """
    idle = connection.execute(_IDLE_PRIORITIES).all()
    if idle:
        rows = [{"b_instance": row.instance, "b_priority": row.priority} for row in idle]
        connection.execute(_FORGET_PRIORITY, rows)
    return len(idle)


def forget_replicas(connection: Connection, *, before: float) -> None:
    """Delete the replicas that were last seen before *before*."""
    old = doomed(select(replicas.c.id).where(replicas.c.seen_at < before), replicas)
    connection.execute(delete(replicas).where(replicas.c.id.in_(old.scalar_subquery())))
