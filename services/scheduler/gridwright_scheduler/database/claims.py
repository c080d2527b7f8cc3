"""Statements by which a replica finds out, or sees to it, that a bot is its own to give leases to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, select, update

from gridwright_scheduler.database.bots import (
    THESE,
    Description,
    StoredSession,
    description_row,
    held_by,
    padded,
)
from gridwright_scheduler.database.dialect import Upsert, locked
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.replicas import alive_since, is_dead
from gridwright_scheduler.database.schema import bots
from gridwright_scheduler.queue.names import BotKey, ReplicaId


class Claim(NamedTuple):
    """A bot has called, and says that it has *session*."""

    session: StoredSession
    description: Description
    #: Whether the replica remembers the session.
    remembered: bool


class Owned(NamedTuple):
    """The bot was the replica's own already, and what that remembers of it is right."""


class Gained(NamedTuple):
    """The bot is the replica's own now."""

    leases: Sequence[Leased]
    #: Whether it was before, and the replica did not remember it.
    forgotten: bool
    #: Whether it was that of another replica that is alive: a proxy balances calls.
    wandered: bool = False


class Superseded(NamedTuple):
    """The bot has begun another session."""


class Contested(NamedTuple):
    """Another replica is about to change the bot's row: it is to be claimed again."""


Claimed = Owned | Gained | Superseded | Contested

_COLUMNS = (
    bots.c.instance,
    bots.c.bot_id,
    bots.c.session,
    bots.c.replica,
    bots.c.offer,
    bots.c.ours,
    bots.c.healthy,
    bots.c.capacity,
)
_LOOK = select(*_COLUMNS).where(THESE)
_ADOPT = Upsert(bots, [bots.c.instance, bots.c.bot_id], returning=[bots.c.bot_id])
#: What another replica has locked is left out, so that no two wait for each other in a circle.
_LOCK = locked(
    _LOOK.add_columns((~is_dead(bots.c.replica)).label("lives")).order_by(bots.c.instance, bots.c.bot_id),
    bots,
    skip=True,
)
_CHANGE = (
    update(bots)
    .where(bots.c.instance == bindparam("b_instance"), bots.c.bot_id == bindparam("b_bot_id"))
    .values(
        replica=bindparam("b_replica"),
        offer=bindparam("b_offer"),
        ours=bindparam("b_ours"),
        healthy=bindparam("b_healthy"),
        capacity=bindparam("b_capacity"),
    )
)


class _Row(NamedTuple):
    session: str
    replica: str
    description: Mapping[str, object]
    #: Whether *replica* is alive, as far as that was asked.
    lives: bool = False


def claim_all(connection: Connection, claims: Sequence[Claim], *, replica: ReplicaId, now: float) -> Sequence[Claimed]:
    """Carry *claims* of *replica* out.

    Nearly all of them find things as they were: these cost one look and no lock, for who gives
    a lease to a bot makes sure once more that it is his own. A session without a row is taken
    for the bot's own: an error instead would make a stock worker kill its jobs and exit.
    """
    there = _rows(connection, _LOOK, {claim.session.bot for claim in claims}, now)
    stale = {claim.session.bot for claim in claims if _is_stale(claim, there.get(claim.session.bot), replica)}
    found = _rows(connection, _LOCK, stale, now) if stale else {}
    contested = stale - found.keys()
    there.update(found)
    results: list[Claimed] = []
    changes: dict[BotKey, dict[str, object]] = {}
    for claim in claims:
        bot = claim.session.bot
        row = there.get(bot)
        if bot in contested or (row is None and not _adopt(connection, claim, replica)):
            results.append(Contested())
            continue
        if row is not None and row.session != claim.session.name:
            results.append(Superseded())
            continue
        if _is_stale(claim, row, replica):
            changes[bot] = _change_of(claim, replica)
        was_own = row is not None and row.replica == replica
        wandered = row is not None and not was_own and row.lives
        results.append(Owned() if was_own and claim.remembered else Gained((), was_own, wandered))
        there[bot] = _Row(claim.session.name, replica, description_row(claim.description))
    if changes:
        connection.execute(_CHANGE, [changes[bot] for bot in sorted(changes)])
    return _with_leases(connection, claims, results)


def _is_stale(claim: Claim, row: _Row | None, replica: ReplicaId) -> bool:
    """Whether the *row* of the bot is to be changed."""
    if row is None or row.session != claim.session.name:
        return False
    return row.replica != replica or row.description != description_row(claim.description)


def _adopt(connection: Connection, claim: Claim, replica: ReplicaId) -> bool:
    """Store a session that has no row; it has one by now if that fails."""
    bot, name = claim.session
    row = {"instance": bot.instance, "bot_id": bot.bot_id, "session": name, "replica": replica}
    return connection.execute(_ADOPT.on(connection), row | description_row(claim.description)).first() is not None


def _change_of(claim: Claim, replica: ReplicaId) -> dict[str, object]:
    bot = claim.session.bot
    changed = {f"b_{name}": value for name, value in description_row(claim.description).items()}
    return {"b_instance": bot.instance, "b_bot_id": bot.bot_id, "b_replica": replica, **changed}


def _with_leases(connection: Connection, claims: Sequence[Claim], results: Sequence[Claimed]) -> Sequence[Claimed]:
    gained = [claim.session.bot for claim, result in zip(claims, results, strict=True) if isinstance(result, Gained)]
    if not gained:
        return results
    held = held_by(connection, gained)
    return [
        result._replace(leases=held.get(claim.session.bot, ())) if isinstance(result, Gained) else result
        for claim, result in zip(claims, results, strict=True)
    ]


def _rows(connection: Connection, query: Select[*tuple[Any, ...]], keys: Set[BotKey], now: float) -> dict[BotKey, _Row]:
    found = {}
    wanted: dict[str, object] = {"keys": padded([tuple(bot) for bot in sorted(keys)])}
    if query is _LOCK:
        wanted["alive_since"] = alive_since(now)
    for row in connection.execute(query, wanted):
        description = {"offer": row.offer, "ours": row.ours, "capacity": row.capacity, "healthy": row.healthy}
        lives = bool(row.lives) if query is _LOCK else False
        found[BotKey(row.instance, row.bot_id)] = _Row(row.session, row.replica, description, lives)
    return found
