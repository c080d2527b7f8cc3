"""Statements about sets of requirements, each of which is kept once."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, bindparam, select

from gridwright_scheduler.database.dialect import Upsert
from gridwright_scheduler.database.schema import actions, in_state, platforms
from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Requirements, platform_id
from gridwright_scheduler.queue.states import ActionState

#: A small part of the time after which a platform that nobody uses is deleted.
_NOTED_AGAIN_AFTER_SECONDS = 3600.0
#: Platforms that are remembered; of the others it is noted once more that they are in use.
_REMEMBERED = 10_000

_NOTE = Upsert(platforms, [platforms.c.id], change=lambda refused: {"used_at": refused.used_at})
_KNOWN = select(platforms).where(platforms.c.id.in_(bindparam("ids", expanding=True)))
_QUEUED = (
    select(actions.c.platform_id)
    .where(actions.c.platform_id == platforms.c.id, in_state(ActionState.QUEUED))
    .limit(1)
    .scalar_subquery()
)
#: Not by EXISTS, which PostgreSQL may take for a join, and then it goes through all that is queued.
_WAITING = select(platforms).where(_QUEUED.is_not(None))


class PlatformsInUse:
    """Sees to it that the platforms of new actions are in the table, and are not deleted from it meanwhile.

    Nobody deletes one that was in use within a day, so most turns have nothing to write.
    """

    def __init__(self) -> None:
        self._noted_at: OrderedDict[PlatformId, float] = OrderedDict()

    def note(self, connection: Connection, using: Iterable[Requirements], *, now: float) -> None:
        """Have *using* in the table; say :meth:`committed` of each when that is durable."""
        rows = {platform_id(one): _row_of(one, now) for one in using if self._is_to_be_noted(one, now)}
        if rows:
            connection.execute(_NOTE.on(connection), [rows[identity] for identity in sorted(rows)])

    def committed(self, requirements: Requirements, *, now: float) -> None:
        """Remember that *requirements* were noted, at *now*."""
        if self._is_to_be_noted(requirements, now):
            self._noted_at[platform_id(requirements)] = now
            while len(self._noted_at) > _REMEMBERED:
                self._noted_at.popitem(last=False)

    def _is_to_be_noted(self, requirements: Requirements, now: float) -> bool:
        noted_at = self._noted_at.get(platform_id(requirements))
        return noted_at is None or now - noted_at > _NOTED_AGAIN_AFTER_SECONDS


def requirements_of_row(identity: str, instance: str, properties: str, ours_only: bool) -> Requirements:
    """Read a row of ``platforms``."""
    return Requirements(instance, tuple((name, value) for name, value in json.loads(properties)), ours_only)


def known_requirements(connection: Connection, ids: Iterable[str]) -> dict[PlatformId, Requirements]:
    """Return what the platforms *ids* stand for."""
    return {PlatformId(row.id): requirements_of_row(*row[:4]) for row in connection.execute(_KNOWN, {"ids": list(ids)})}


def waiting_platforms(connection: Connection) -> Mapping[PlatformId, Requirements]:
    """Return the platforms of which something is queued; that takes as long for one action as for many."""
    return {PlatformId(row.id): requirements_of_row(*row[:4]) for row in connection.execute(_WAITING)}


def _row_of(requirements: Requirements, now: float) -> dict[str, object]:
    return {
        "id": platform_id(requirements),
        "instance": requirements.instance,
        "properties": json.dumps(requirements.properties),
        "ours_only": requirements.ours_only,
        "used_at": now,
    }
