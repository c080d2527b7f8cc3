"""Statements about bots and what they hold."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, or_, select, tuple_, update

from gridwright_scheduler.database.dialect import Upsert, locked
from gridwright_scheduler.database.records import LEASED_COLUMNS, Leased, leased_of
from gridwright_scheduler.database.replicas import alive_since, is_dead
from gridwright_scheduler.database.schema import actions, bots, in_state
from gridwright_scheduler.queue.names import BotKey, LeaseId, ReplicaId, SessionName
from gridwright_scheduler.queue.platform import Offer
from gridwright_scheduler.queue.states import ActionState

#: Bots that one statement is about at most.
CHUNK = 500


class Description(NamedTuple):
    """What a bot says of itself."""

    offer: Offer
    capacity: int
    #: Whether it takes work.
    healthy: bool


class StoredSession(NamedTuple):
    """A session that has begun, and has not been ended."""

    bot: BotKey
    name: SessionName


class Kept(NamedTuple):
    """A session that another replica takes over, and what its bot holds."""

    session: StoredSession
    description: Description
    leases: Sequence[Leased]


KEY = tuple_(bots.c.instance, bots.c.bot_id)
THESE = KEY.in_(bindparam("keys", expanding=True))
#: The bot that has an action.
_HOLDER = and_(bots.c.instance == actions.c.instance, bots.c.bot_id == actions.c.bot_id)
_OF_THESE = tuple_(actions.c.instance, actions.c.bot_id).in_(bindparam("keys", expanding=True))
_HELD = select(*LEASED_COLUMNS).where(in_state(ActionState.EXECUTING), _OF_THESE)
_BEGIN = Upsert(
    bots,
    [bots.c.instance, bots.c.bot_id],
    change=lambda new: {
        name: getattr(new, name) for name in ("session", "replica", "offer", "ours", "healthy", "capacity")
    },
)
_ABANDONED = locked(
    select(bots)
    .where(bots.c.replica != bindparam("replica"), is_dead(bots.c.replica))
    .order_by(bots.c.instance, bots.c.bot_id)
    .limit(bindparam("limit")),
    bots,
    skip=True,
)
_MOVE = update(bots).where(THESE).values(replica=bindparam("replica"))
_END = (
    delete(bots)
    .where(
        tuple_(bots.c.instance, bots.c.bot_id, bots.c.session).in_(bindparam("sessions", expanding=True)),
        bots.c.replica == bindparam("replica"),
    )
    .returning(bots.c.instance, bots.c.bot_id, bots.c.session)
)
_OWN = select(bots.c.instance, bots.c.bot_id, bots.c.session).where(bots.c.replica == bindparam("replica"))
_OWN_COUNT = select(func.count()).select_from(bots).where(bots.c.replica == bindparam("replica"))
_OWN_LEASES = (
    select(actions.c.lease_id)
    .select_from(actions.outerjoin(bots, _HOLDER))
    .where(in_state(ActionState.EXECUTING), or_(bots.c.replica == bindparam("replica"), bots.c.bot_id.is_(None)))
)


def store_session(
    connection: Connection, session: StoredSession, description: Description, *, replica: ReplicaId
) -> None:
    """Make *session*, which *replica* has, the one of its bot, in the place of any other."""
    bot, name = session
    row = {"instance": bot.instance, "bot_id": bot.bot_id, "session": name, "replica": replica}
    connection.execute(_BEGIN.on(connection), row | description_row(description))


def held_by(connection: Connection, holders: Iterable[BotKey]) -> Mapping[BotKey, Sequence[Leased]]:
    """Return what each of *holders* holds, if it holds anything."""
    found: defaultdict[BotKey, list[Leased]] = defaultdict(list)
    for row in connection.execute(_HELD, {"keys": padded([tuple(bot) for bot in holders])}):
        leased = leased_of(row)
        found[leased.bot].append(leased)
    return found


def end_sessions(
    connection: Connection, sessions: Collection[StoredSession], *, replica: ReplicaId
) -> Mapping[StoredSession, Sequence[Leased]]:
    """Forget those of *sessions* that *replica* still has, and return them with what their bots hold.

    The others are those of bots that call another replica by now, or have begun anew.
    """
    names = padded([(*one.bot, one.name) for one in sessions])
    rows = connection.execute(_END, {"sessions": names, "replica": replica}).all()
    ended = [StoredSession(BotKey(row.instance, row.bot_id), SessionName(row.session)) for row in rows]
    held = held_by(connection, [one.bot for one in ended]) if ended else {}
    return {one: held.get(one.bot, ()) for one in ended}


def take_over(connection: Connection, replica: ReplicaId, *, limit: int, now: float) -> Sequence[Kept]:
    """Give to *replica* some of the sessions that no living replica has; none when there is none left.

    *now* is the time of the database.
    """
    found = connection.execute(
        _ABANDONED, {"replica": replica, "alive_since": alive_since(now), "limit": min(limit, CHUNK)}
    ).all()
    if not found:
        return ()
    keys = [BotKey(row.instance, row.bot_id) for row in found]
    connection.execute(_MOVE, {"keys": padded([tuple(key) for key in keys]), "replica": replica})
    held = held_by(connection, keys)
    return [
        Kept(StoredSession(key, SessionName(row.session)), description_of(row), held.get(key, ()))
        for key, row in zip(keys, found, strict=True)
    ]


def own_sessions(connection: Connection, replica: ReplicaId) -> Collection[StoredSession]:
    """Return the sessions that *replica* has."""
    rows = connection.execute(_OWN, {"replica": replica})
    return {StoredSession(BotKey(row.instance, row.bot_id), SessionName(row.session)) for row in rows}


def count_own(connection: Connection, replica: ReplicaId) -> int:
    """Return how many these are."""
    count: int = connection.execute(_OWN_COUNT, {"replica": replica}).scalar_one()
    return count


def own_leases(connection: Connection, replica: ReplicaId) -> set[LeaseId]:
    """Return the leases of the bots that *replica* has, and of those that have no session at all."""
    return {LeaseId(row.lease_id) for row in connection.execute(_OWN_LEASES, {"replica": replica})}


def description_of(row: Row[*tuple[Any, ...]]) -> Description:
    """Read the columns ``instance, offer, ours, capacity, healthy``."""
    properties = frozenset((name, value) for name, value in json.loads(row.offer))
    return Description(Offer(row.instance, properties, row.ours), row.capacity, row.healthy)


def description_row(description: Description) -> dict[str, object]:
    """Return what these columns hold for *description*."""
    offer, capacity, healthy = description
    return {"offer": _dumped(offer), "ours": offer.ours, "capacity": capacity, "healthy": healthy}


@lru_cache(maxsize=1024)
def _dumped(offer: Offer) -> str:
    return json.dumps(sorted(offer.properties))


def padded(keys: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return *keys*, the last one repeated until they are a power of two: so there are few different statements."""
    return [*keys, *(keys[-1:] * ((1 << (len(keys) - 1).bit_length()) - len(keys)))]
