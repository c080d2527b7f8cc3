"""Statements about bots and what they hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from gridwright_scheduler.database.records import LEASED_COLUMNS, Leased, leased_of
from gridwright_scheduler.database.schema import actions, bots, in_state
from gridwright_scheduler.queue.names import BotKey, LeaseId, SessionName
from gridwright_scheduler.queue.states import ActionState


class StoredSession(NamedTuple):
    """A session that has begun, and has not been ended."""

    bot: BotKey
    name: SessionName


def begin_session(connection: Connection, session: StoredSession) -> Sequence[Leased]:
    """Make *session* the one of its bot, in the place of any other; return what that bot holds."""
    older = delete(bots).where(bots.c.instance == session.bot.instance, bots.c.bot_id == session.bot.bot_id)
    connection.execute(older)
    row = {"instance": session.bot.instance, "bot_id": session.bot.bot_id, "session": session.name}
    connection.execute(insert(bots), row)
    held = select(*LEASED_COLUMNS).where(
        in_state(ActionState.EXECUTING),
        actions.c.instance == session.bot.instance,
        actions.c.bot_id == session.bot.bot_id,
    )
    return [leased_of(row) for row in connection.execute(held)]


def adopt_session(connection: Connection, session: StoredSession) -> Sequence[Leased] | None:
    """Do as :func:`begin_session` does, unless the bot has another session: then return None, and change nothing."""
    bot, name = session
    stored = select(bots.c.session).where(bots.c.instance == bot.instance, bots.c.bot_id == bot.bot_id)
    if connection.execute(stored).scalar_one_or_none() not in (None, name):
        return None
    return begin_session(connection, session)


def end_session(connection: Connection, session: StoredSession) -> None:
    """Forget *session*, unless its bot has a newer one; its leases are somebody else's concern."""
    bot, name = session
    same = delete(bots).where(bots.c.instance == bot.instance, bots.c.bot_id == bot.bot_id, bots.c.session == name)
    connection.execute(same)


def stored_sessions(connection: Connection) -> Sequence[StoredSession]:
    """Return all sessions, as a scheduler that starts finds them."""
    rows = connection.execute(select(bots))
    return [StoredSession(BotKey(row.instance, row.bot_id), SessionName(row.session)) for row in rows]


def all_leased(connection: Connection) -> Sequence[Leased]:
    """Return all actions in the hands of bots, as a scheduler that starts finds them."""
    rows = connection.execute(select(*LEASED_COLUMNS).where(in_state(ActionState.EXECUTING)))
    return [leased_of(row) for row in rows]


def current_leases(connection: Connection) -> Collection[LeaseId]:
    """Return the leases of all actions in the hands of bots."""
    rows = connection.execute(select(actions.c.lease_id).where(in_state(ActionState.EXECUTING)))
    return [LeaseId(row.lease_id) for row in rows]
