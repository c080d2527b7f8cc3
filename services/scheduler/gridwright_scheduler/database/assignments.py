"""Statements that give queued actions to bots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, select, tuple_, update

from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.flows import advance
from gridwright_scheduler.database.records import LEASED_COLUMNS, Leased, leased_of, load_texts
from gridwright_scheduler.database.schema import actions, bots, in_state, platforms
from gridwright_scheduler.queue.fair_order import Line
from gridwright_scheduler.queue.matching import Assignment, Candidate, IdleWorker, foremost, match
from gridwright_scheduler.queue.names import ActionId, BotKey, PlatformId, ReplicaId, new_lease_id
from gridwright_scheduler.queue.platform import Requirements, serves
from gridwright_scheduler.queue.states import ActionState, sources

#: Leases that one turn gives at most, and so candidates of a platform that it reads, however many bots are idle.
MAX_LEASES = 250
#: Bounds what a turn reads of actions that wait for another bot.
_MAX_AVOIDING = 1_000


class Bounds(NamedTuple):
    """How long a bot may have an action."""

    #: Beyond the action's own timeout, for inputs, outputs and the way.
    grace_seconds: float
    #: Of an action that has no timeout, everything included.
    longest_seconds: float

    def of(self, timeout_seconds: float | None) -> float:
        """Return the bound for an action with this timeout."""
        return self.longest_seconds if timeout_seconds is None else timeout_seconds + self.grace_seconds


class Assigned(NamedTuple):
    """What a round of assignment came to."""

    leased: Sequence[Leased] = ()
    #: Platforms of which nothing is queued any more.
    drained: Collection[PlatformId] = ()
    #: Bots that were to be given something, and that another replica talks to now, or in another session.
    lost: Sequence[IdleWorker] = ()
    #: Until when some of what was read waits for another bot than those which failed it.
    avoiding_until: float = 0.0


_AVOIDING = (
    select(actions.c.id)
    .where(
        actions.c.platform_id == bindparam("platform"),
        in_state(ActionState.QUEUED),
        actions.c.avoid_until > bindparam("now"),
    )
    .limit(_MAX_AVOIDING)
)
#: Platforms that one statement asks for the first actions of: always as many, so that it stays prepared.
_HEADS_AT_ONCE = 100
_FIRST = (
    select(actions.c.priority)
    .where(actions.c.platform_id == platforms.c.id, in_state(ActionState.QUEUED))
    .order_by(actions.c.priority, actions.c.tag, actions.c.sequence)
    .limit(1)
)
_HEADS = select(
    platforms.c.id,
    _FIRST.scalar_subquery().label("priority"),
    _FIRST.with_only_columns(actions.c.tag).scalar_subquery().label("tag"),
    _FIRST.with_only_columns(actions.c.sequence).scalar_subquery().label("sequence"),
).where(platforms.c.id.in_(bindparam("ids", expanding=True)))
#: Locked, so that what is leased below is still queued then; what somebody else is at is left to him.
_CANDIDATES = locked(
    select(
        *LEASED_COLUMNS,
        actions.c.platform_id,
        actions.c.priority,
        actions.c.tag,
        actions.c.sequence,
        actions.c.timeout_seconds,
        actions.c.avoid_until,
    )
    .where(actions.c.platform_id == bindparam("platform"), in_state(ActionState.QUEUED))
    .order_by(actions.c.priority, actions.c.tag, actions.c.sequence)
    .limit(bindparam("limit")),
    actions,
    skip=True,
)
#: Locked, so that they are this replica's until their leases can be seen. One that is locked is being taken by another
#: replica; waiting for that could be for ever, as it may wait for a row of ours.
_MINE = locked(
    select(bots.c.instance, bots.c.bot_id, bots.c.session)
    .where(
        tuple_(bots.c.instance, bots.c.bot_id).in_(bindparam("bots", expanding=True)),
        bots.c.replica == bindparam("replica"),
    )
    .order_by(bots.c.instance, bots.c.bot_id),
    bots,
    skip=True,
)
_LEASE = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"), in_state(*sources(ActionState.EXECUTING)))
    .values(
        state=int(ActionState.EXECUTING),
        lease_id=bindparam("b_lease_id"),
        fence=bindparam("b_fence"),
        bot_id=bindparam("b_bot_id"),
        leased_at=bindparam("b_now"),
        give_up_at=bindparam("b_give_up_at"),
        progress=None,
        version=actions.c.version + 1,
    )
)


def assign(
    connection: Connection,
    *,
    workers: Collection[IdleWorker],
    wanted: Mapping[PlatformId, Requirements],
    bounds: Bounds,
    avoiding: bool,
    now: float,
    replica: ReplicaId | None = None,
) -> Assigned:
    """Lease queued actions of the platforms *wanted* to *workers*.

    *avoiding* says whether there may be some that wait for another bot than those which failed them. Bots are given
    nothing that are not those of *replica* any more; None: nobody else uses the tables.
    """
    reading = _Reading(connection, avoiding=avoiding, now=now)
    for platform, requirements in reading.what_matters(wanted, workers).items():
        reading.add(platform, requirements, slots=_slots(workers, requirements))
    matched = match(workers, reading.candidates)[:MAX_LEASES]
    if matched:
        _advance(connection, [reading.rows[one.action_id] for one in matched])
    lost = _lost(connection, workers, matched, replica) if matched and replica is not None else {}
    given = [
        _leased(reading.rows[action_id], bot, bounds=bounds, now=now) for bot, action_id in matched if bot not in lost
    ]
    if given:
        connection.execute(_LEASE, [_lease_row(leased, now) for leased in given])
    drained = reading.drained_by({leased.action_id for leased in given})
    return Assigned(given, drained, list(lost.values()), reading.avoiding_until)


class _Reading:
    """What is queued, as far as it matters now."""

    def __init__(self, connection: Connection, *, avoiding: bool, now: float) -> None:
        self._connection = connection
        self._avoiding = avoiding
        self._now = now
        self.candidates: list[Candidate] = []
        self.rows: dict[ActionId, Row[*tuple[Any, ...]]] = {}
        self.avoiding_until = 0.0
        #: All that is queued, of the platforms of which all was read.
        self._whole: dict[PlatformId, set[ActionId]] = {}

    def what_matters(
        self, wanted: Mapping[PlatformId, Requirements], workers: Collection[IdleWorker]
    ) -> Mapping[PlatformId, Requirements]:
        """Return those of *wanted* that the slots of *workers* may be enough for, as each costs a statement."""
        if self._avoiding or len(wanted) <= sum(worker.free_slots for worker in workers):
            return wanted
        heads = _heads(self._connection, wanted)
        self._whole.update((platform, set()) for platform in wanted.keys() - heads.keys())
        return {platform: wanted[platform] for platform in foremost(workers, wanted, heads)}

    def add(self, platform: PlatformId, requirements: Requirements, *, slots: int) -> None:
        """Read, and lock, what of *platform* could fill *slots*."""
        limit = slots
        if self._avoiding:  # those must not hide the ones behind them
            limit += len(self._connection.execute(_AVOIDING, {"platform": platform, "now": self._now}).all())
        found = self._connection.execute(_CANDIDATES, {"platform": platform, "limit": limit}).all()
        self.candidates += [_candidate(row, requirements, self._now) for row in found]
        self.rows |= {ActionId(row.id): row for row in found}
        self.avoiding_until = max([self.avoiding_until, *(row.avoid_until or 0.0 for row in found)])
        if len(found) < limit:
            self._whole[platform] = {ActionId(row.id) for row in found}

    def drained_by(self, gone: Set[ActionId]) -> Collection[PlatformId]:
        """Return the platforms of which nothing is queued any more without the actions *gone*."""
        return [platform for platform, queued in self._whole.items() if queued <= gone]


def _heads(connection: Connection, ids: Iterable[PlatformId]) -> Mapping[PlatformId, tuple[int, float, int]]:
    """Return what orders the first actions of those of the platforms *ids* of which something is queued."""
    heads: dict[PlatformId, tuple[int, float, int]] = {}
    asked = list(ids)
    for start in range(0, len(asked), _HEADS_AT_ONCE):
        some = asked[start : start + _HEADS_AT_ONCE]
        padded = some + [PlatformId("")] * (_HEADS_AT_ONCE - len(some))
        for row in connection.execute(_HEADS, {"ids": padded}):
            if row.sequence is not None:
                heads[PlatformId(row.id)] = (row.priority, row.tag, row.sequence)
    return heads


def _slots(workers: Iterable[IdleWorker], requirements: Requirements) -> int:
    """Return for how many actions with *requirements* there may be room."""
    return min(MAX_LEASES, sum(one.free_slots for one in workers if serves(one.offer, requirements)))


def _candidate(row: Row[*tuple[Any, ...]], requirements: Requirements, now: float) -> Candidate:
    avoid = load_texts(row.avoid) if row.avoid_until is not None and row.avoid_until > now else ()
    return Candidate(row.priority, row.tag, row.sequence, ActionId(row.id), requirements, avoid)


def _advance(connection: Connection, given: Iterable[Row[*tuple[Any, ...]]]) -> None:
    tags: dict[Line, float] = {}
    for row in given:
        line = Line(row.instance, row.platform_id, row.priority)
        tags[line] = max(tags.get(line, 0.0), row.tag)
    advance(connection, tags)


def _lost(
    connection: Connection, workers: Iterable[IdleWorker], matched: Iterable[Assignment], replica: ReplicaId
) -> Mapping[BotKey, IdleWorker]:
    """Return those of the bots in *matched* that are not *replica*'s, in the session that it knows."""
    picked = {one.bot for one in matched}
    mine = connection.execute(_MINE, {"bots": sorted(picked), "replica": replica})
    sessions = {BotKey(row.instance, row.bot_id): row.session for row in mine}
    return {one.bot: one for one in workers if one.bot in picked and sessions.get(one.bot) != one.session}


def _leased(row: Row[*tuple[Any, ...]], bot: BotKey, *, bounds: Bounds, now: float) -> Leased:
    fence = row.fence + 1
    return replace(
        leased_of(row),
        lease_id=new_lease_id(bot.instance, fence),
        bot=bot,
        give_up_at=now + bounds.of(row.timeout_seconds),
        fence=fence,
        version=row.version + 1,
        leased_at=now,
    )


def _lease_row(leased: Leased, now: float) -> dict[str, object]:
    return {
        "b_id": leased.action_id,
        "b_lease_id": leased.lease_id,
        "b_fence": leased.fence,
        "b_bot_id": leased.bot.bot_id,
        "b_now": now,
        "b_give_up_at": leased.give_up_at,
    }
