"""Rows as values: what the shell remembers of an action, and how it is read from the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Row

from gridwright.digest import Digest, DigestFunction
from gridwright_scheduler.database.schema import actions
from gridwright_scheduler.queue.names import ActionId, ActionKey, BotKey, LeaseId, OperationName
from gridwright_scheduler.queue.states import ActionState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An action as its clients see it at one moment."""

    action_id: ActionId
    digest: Digest
    state: ActionState
    queued_at: float
    #: The bot that runs it, or ran it last.
    worker: str = ""
    #: A serialised ExecuteResponse, once it is COMPLETED.
    response: bytes = b""
    #: A serialised ExecutedActionMetadata that the worker has sent meanwhile.
    progress: bytes = b""
    #: Of two snapshots of an action, the one with the larger number is newer.
    version: int = 0


class OperationRecord(NamedTuple):
    """One Execute call, and what became of it."""

    name: OperationName
    created_at: float
    cancelled: bool
    snapshot: Snapshot
    #: The serialised RequestMetadata of the call; empty: none was sent, or it was not asked for.
    request_metadata: bytes = b""


@dataclass(frozen=True, slots=True)
class Leased:
    """An action in the hands of a bot."""

    action_id: ActionId
    lease_id: LeaseId
    bot: BotKey
    key: ActionKey
    #: The client's bytes.
    action: bytes
    do_not_cache: bool
    queued_at: float
    failures: tuple[str, ...]
    #: When it is taken from the bot.
    give_up_at: float
    #: The bots that failed it.
    avoid: tuple[str, ...] = ()
    #: What became of leases that do not count as attempts.
    uncounted: tuple[str, ...] = ()
    #: Of which of the action's leases this is; the others settle nothing.
    fence: int = 0
    #: That of the action at the moment.
    version: int = 0
    leased_at: float = 0.0

    def snapshot(self) -> Snapshot:
        """Return what clients see of it."""
        return Snapshot(
            self.action_id,
            self.key.digest,
            ActionState.EXECUTING,
            self.queued_at,
            self.bot.bot_id,
            version=self.version,
        )


SNAPSHOT_COLUMNS = (
    actions.c.id,
    actions.c.function,
    actions.c.hash,
    actions.c.size_bytes,
    actions.c.state,
    actions.c.queued_at,
    actions.c.bot_id,
    actions.c.response,
    actions.c.progress,
    actions.c.version,
)

LEASED_COLUMNS = (
    actions.c.id,
    actions.c.lease_id,
    actions.c.instance,
    actions.c.bot_id,
    actions.c.function,
    actions.c.hash,
    actions.c.size_bytes,
    actions.c.action,
    actions.c.do_not_cache,
    actions.c.queued_at,
    actions.c.failures,
    actions.c.give_up_at,
    actions.c.avoid,
    actions.c.fence,
    actions.c.version,
    actions.c.leased_at,
)


def snapshot_of(row: Row[*tuple[Any, ...]]) -> Snapshot:
    """Read SNAPSHOT_COLUMNS."""
    state = ActionState(row.state)
    return Snapshot(
        ActionId(row.id),
        Digest(DigestFunction(row.function), row.hash, row.size_bytes),
        state,
        row.queued_at,
        "" if state is ActionState.QUEUED else row.bot_id or "",
        # A COMPLETING action has one already that nobody may see yet.
        row.response if state is ActionState.COMPLETED else b"",
        # That of the last lease stays there.
        (row.progress or b"") if state in (ActionState.EXECUTING, ActionState.COMPLETING) else b"",
        row.version,
    )


def leased_of(row: Row[*tuple[Any, ...]]) -> Leased:
    """Read LEASED_COLUMNS of an action that has, or had, a lease."""
    failures, uncounted = load_failures(row.failures)
    return Leased(
        ActionId(row.id),
        LeaseId(row.lease_id),
        BotKey(row.instance, row.bot_id),
        ActionKey(row.instance, Digest(DigestFunction(row.function), row.hash, row.size_bytes)),
        row.action,
        row.do_not_cache,
        row.queued_at,
        failures,
        row.give_up_at,
        load_texts(row.avoid),
        uncounted,
        row.fence,
        row.version,
        row.leased_at or 0.0,
    )


def load_failures(stored: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read ``actions.failures``: what counts as attempts, and what does not, which is a list of one there."""
    if stored == "[]":
        return (), ()
    told = json.loads(stored)
    return tuple(one for one in told if isinstance(one, str)), tuple(one[0] for one in told if isinstance(one, list))


def dump_failures(counted: Sequence[str], uncounted: Sequence[str]) -> str:
    """Return what ``actions.failures`` holds for these."""
    return json.dumps([*counted, *([one] for one in uncounted)]) if counted or uncounted else "[]"


def load_texts(stored: str) -> tuple[str, ...]:
    """Read a column that holds a list of texts."""
    return tuple(json.loads(stored)) if stored != "[]" else ()


def dump_texts(texts: Sequence[str]) -> str:
    """Return what such a column holds for *texts*."""
    return json.dumps(list(texts)) if texts else "[]"
