"""Statements about the order of what is queued; ``queue.fair_order`` says what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, Select, Text, bindparam, case, func, literal_column, select, union_all

from gridwright_scheduler.database.dialect import Upsert
from gridwright_scheduler.database.schema import EVERY_PLATFORM, actions, in_state, virtual_times
from gridwright_scheduler.queue.fair_order import Flow, Line, Progress, tags_of
from gridwright_scheduler.queue.states import ActionState

#: Flows that one statement asks for: as many as most turns have, and always as many, so that it stays prepared.
_FLOWS_AT_ONCE = 8
#: Of which nothing is looked for.
_NOBODY = ((None, None, None), None)


def _asked_for(number: int) -> Select[*tuple[Any, ...]]:
    return select(
        bindparam(f"instance_{number}", type_=Text).label("instance"),
        bindparam(f"platform_{number}", type_=Text).label("platform"),
        bindparam(f"priority_{number}", type_=Integer).label("priority"),
        bindparam(f"invocation_{number}", type_=Text).label("invocation"),
    )


_ASKED = union_all(*(_asked_for(number) for number in range(_FLOWS_AT_ONCE))).cte("asked")
_IN_LINE = (
    in_state(ActionState.QUEUED),
    actions.c.platform_id == _ASKED.c.platform,
    actions.c.priority == _ASKED.c.priority,
)
_HEAD = select(func.min(actions.c.tag)).where(*_IN_LINE)
_LAST = select(func.max(actions.c.tag)).where(*_IN_LINE, actions.c.invocation == _ASKED.c.invocation)
_GIVEN_ANYWHERE = select(virtual_times.c.tag).where(
    virtual_times.c.instance == _ASKED.c.instance,
    virtual_times.c.priority == _ASKED.c.priority,
    virtual_times.c.platform_id == literal_column(f"'{EVERY_PLATFORM}'"),
)
_GIVEN = select(virtual_times.c.tag).where(
    virtual_times.c.instance == _ASKED.c.instance,
    virtual_times.c.priority == _ASKED.c.priority,
    virtual_times.c.platform_id == _ASKED.c.platform,
)
#: Each of the four is found at an end of an index, however much is queued.
_FLOWS = select(
    _ASKED,
    _HEAD.scalar_subquery().label("head"),
    _LAST.scalar_subquery().label("last"),
    func.coalesce(_GIVEN.scalar_subquery(), 0.0).label("given"),
    func.coalesce(_GIVEN_ANYWHERE.scalar_subquery(), 0.0).label("given_anywhere"),
).where(_ASKED.c.instance.is_not(None))
_ADVANCE = Upsert(
    virtual_times,
    [virtual_times.c.instance, virtual_times.c.priority, virtual_times.c.platform_id],
    change=lambda given: {"tag": case((given.tag > virtual_times.c.tag, given.tag), else_=virtual_times.c.tag)},
)


def next_tags(connection: Connection, arrivals: Sequence[Flow]) -> Sequence[float]:
    """Return the tags of actions that are queued now, in this order, each in its flow.

    Two schedulers that queue something in one flow at once may come to equal tags; their sequence orders them.
    """
    lines: dict[Line, Progress] = {}
    last: dict[Flow, float] = {}
    flows = list(dict.fromkeys(arrivals))
    for start in range(0, len(flows), _FLOWS_AT_ONCE):
        for row in connection.execute(_FLOWS, _parameters(flows[start : start + _FLOWS_AT_ONCE])):
            line = Line(row.instance, row.platform, row.priority)
            lines[line] = Progress(row.given, row.given_anywhere, row.head)
            if row.last is not None:
                last[Flow(line, row.invocation)] = row.last
    return tags_of(arrivals, lines=lines, last=last)


def advance(connection: Connection, given: Mapping[Line, float]) -> None:
    """Note how far lines have come: the largest tag of each that is *given* to a bot now."""
    reached: dict[tuple[str, int, str], float] = {}
    for line, tag in given.items():
        for platform in (line.platform, EVERY_PLATFORM):
            key = (line.instance, line.priority, platform)
            reached[key] = max(reached.get(key, 0.0), tag)
    rows = [
        {
            "instance": instance,
            "priority": priority,
            "platform_id": platform,
            "tag": reached[instance, priority, platform],
        }
        for instance, priority, platform in sorted(reached)
    ]
    connection.execute(_ADVANCE.on(connection), rows)


def _parameters(flows: Sequence[Flow]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for number in range(_FLOWS_AT_ONCE):
        (instance, platform, priority), invocation = flows[number] if number < len(flows) else _NOBODY
        parameters[f"instance_{number}"] = instance
        parameters[f"platform_{number}"] = platform
        parameters[f"priority_{number}"] = priority
        parameters[f"invocation_{number}"] = invocation
    return parameters
