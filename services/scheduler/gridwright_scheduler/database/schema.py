"""The tables.

Times are seconds since the epoch. Conditions on ``state`` are spelled as literals
(:func:`in_state`), because neither database uses a partial index for a bound parameter.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    false,
    literal_column,
    text,
)

from gridwright_scheduler.queue.states import ActionState

metadata = MetaData()

#: The sets of requirements that actions have, each kept once.
platforms = Table(
    "platforms",
    metadata,
    Column("id", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    #: A JSON list of [name, value].
    Column("properties", Text, nullable=False),
    Column("ours_only", Boolean, nullable=False),
    #: When a scheduler last began to use it; one that was not for a day, and that no action has, may go.
    Column("used_at", Float, nullable=False, server_default="0"),
)

#: One row per piece of work, with its lease while it has one.
actions = Table(
    "actions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("function", SmallInteger, nullable=False),
    Column("hash", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    #: The client's bytes: the payload of leases.
    Column("action", LargeBinary, nullable=False),
    Column("do_not_cache", Boolean, nullable=False),
    Column("platform_id", Text, ForeignKey("platforms.id"), nullable=False),
    Column("priority", Integer, nullable=False),
    #: The flow that the action stands in, with its platform and priority: the tool_invocation_id of the call that
    #: brought it; empty: none was sent.
    Column("invocation", Text, nullable=False, server_default=""),
    #: The start tag of fair queueing: of one priority, the smallest is next. It is kept when the action is requeued.
    Column("tag", Float, nullable=False, server_default="0"),
    #: Orders actions of one tag: grows with the time of queueing, and is kept when the action is requeued.
    Column("sequence", BigInteger, nullable=False),
    #: Null: the action leaves it to the server.
    Column("timeout_seconds", Float),
    Column("queued_at", Float, nullable=False),
    Column("state", SmallInteger, nullable=False),
    #: A JSON list of what became of earlier attempts; of a lease that does not count as one, in a list of its own.
    Column("failures", Text, nullable=False, server_default="[]"),
    #: Whether the first attempt is the only one.
    Column("no_retry", Boolean, nullable=False, server_default=false()),
    #: A JSON list of the bots that failed it, which it is not given to again before avoid_until.
    Column("avoid", Text, nullable=False, server_default="[]"),
    Column("avoid_until", Float),
    #: Grows with each change that clients can see, so that of two looks it is known which is newer.
    Column("version", BigInteger, nullable=False, server_default="0"),
    #: How many leases the action has had; the number of the current one is its fence.
    Column("fence", BigInteger, nullable=False, server_default="0"),
    #: The lease under which the action is, or was last, EXECUTING.
    Column("lease_id", Text, unique=True),
    Column("bot_id", Text),
    Column("leased_at", Float),
    #: When an EXECUTING action is taken from its bot, or a COMPLETING one is looked at again.
    Column("give_up_at", Float),
    #: The replica that carries a COMPLETING action to its end.
    Column("owner", Text),
    #: A serialised ExecutedActionMetadata, as far as the bot has sent it.
    Column("progress", LargeBinary),
    #: A serialised ExecuteResponse.
    Column("response", LargeBinary),
    Column("succeeded", Boolean, nullable=False, server_default=false()),
    Column("finished_at", Float),
)

#: One row per Execute call; several may share an action.
operations = Table(
    "operations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("action_id", Text, ForeignKey("actions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("cancelled_at", Float),
    #: When somebody last was interested in it, give or take some seconds.
    Column("attended_at", Float, nullable=False, server_default="0"),
    #: The tool_invocation_id of the call; empty: none was sent.
    Column("invocation", Text, nullable=False, server_default=""),
)

#: What callers said about themselves, of the Execute calls that said something. A table of its own, as it is written
#: once and read only for whoever looks at a single operation.
request_metadata = Table(
    "request_metadata",
    metadata,
    Column("operation", Text, ForeignKey("operations.name", ondelete="CASCADE"), primary_key=True),
    #: A serialised RequestMetadata, as it was sent.
    Column("message", LargeBinary, nullable=False),
)

#: The bots that have a session; a newer session of the same bot takes the place of the older.
bots = Table(
    "bots",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("bot_id", Text, primary_key=True),
    Column("session", Text, nullable=False),
    #: The replica that alone may give the bot leases; the one that the bot last called.
    Column("replica", Text, nullable=False, server_default=""),
    #: A sorted JSON list of [name, value]: the properties that the bot offers.
    Column("offer", Text, nullable=False, server_default="[]"),
    #: Whether it is a worker of ours.
    Column("ours", Boolean, nullable=False, server_default=false()),
    #: Whether it takes work.
    Column("healthy", Boolean, nullable=False, server_default=false()),
    Column("capacity", Integer, nullable=False, server_default="1"),
)

#: The schedulers that share these tables; one that was not seen for a while is dead, and what it did is for others.
replicas = Table(
    "replicas",
    metadata,
    #: Random, and another one after each start.
    Column("id", Text, primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

#: How far fair queueing has come: the largest tag that was given to a bot.
virtual_times = Table(
    "virtual_times",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("priority", Integer, primary_key=True, autoincrement=False),
    #: Or EVERY_PLATFORM, for the furthest of the instance.
    Column("platform_id", Text, primary_key=True),
    Column("tag", Float, nullable=False),
)

EVERY_PLATFORM = ""


def in_state(*states: ActionState) -> ColumnElement[bool]:
    """Return the condition that an action is in one of *states*."""
    if len(states) == 1:
        return actions.c.state == literal_column(str(int(states[0])))
    return actions.c.state.in_([literal_column(str(int(state))) for state in states])


#: Neither COMPLETED: an equal action that may be joined.
IN_FLIGHT = actions.c.state < literal_column(str(int(ActionState.COMPLETED)))

#: What makes two actions equal.
KEY = (actions.c.hash, actions.c.size_bytes, actions.c.function, actions.c.instance)
#: Where :data:`KEY` is unique.
LIVE_AND_SHARED = text(f"state < {int(ActionState.COMPLETED)} AND NOT do_not_cache")
_QUEUED = text(f"state = {int(ActionState.QUEUED)}")
_LEASED = text(f"state IN ({int(ActionState.EXECUTING)}, {int(ActionState.COMPLETING)})")
_AVOIDING = text(f"state = {int(ActionState.QUEUED)} AND avoid_until IS NOT NULL")
_DONE = text(f"state = {int(ActionState.COMPLETED)}")

Index("actions_in_flight", *KEY, unique=True, sqlite_where=LIVE_AND_SHARED, postgresql_where=LIVE_AND_SHARED)
Index("actions_by_hash", actions.c.hash)
Index(
    "actions_queue",
    actions.c.platform_id,
    actions.c.priority,
    actions.c.tag,
    actions.c.sequence,
    sqlite_where=_QUEUED,
    postgresql_where=_QUEUED,
)
Index(
    "actions_by_flow",
    actions.c.platform_id,
    actions.c.priority,
    actions.c.invocation,
    actions.c.tag,
    sqlite_where=_QUEUED,
    postgresql_where=_QUEUED,
)
Index("bots_by_replica", bots.c.replica)
Index("actions_leased", actions.c.give_up_at, sqlite_where=_LEASED, postgresql_where=_LEASED)
Index("actions_done", actions.c.finished_at, sqlite_where=_DONE, postgresql_where=_DONE)
Index("operations_by_age", operations.c.instance, operations.c.created_at, operations.c.name)
_TOLD = text("invocation <> ''")
Index(
    "operations_by_invocation",
    operations.c.instance,
    operations.c.invocation,
    operations.c.created_at,
    operations.c.name,
    sqlite_where=_TOLD,
    postgresql_where=_TOLD,
)
Index(
    "actions_avoiding",
    actions.c.platform_id,
    actions.c.avoid_until,
    sqlite_where=_AVOIDING,
    postgresql_where=_AVOIDING,
)
