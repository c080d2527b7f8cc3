"""Which operations a list shows: the filters of ListOperations, in BuildGrid's grammar."""

from __future__ import annotations

import re
from collections.abc import Set
from enum import StrEnum
from typing import NamedTuple

from gridwright.errors import InvalidRequest
from gridwright_scheduler.queue.names import in_instance
from gridwright_scheduler.queue.states import ActionState


class Field(StrEnum):
    """What an operation can be told by, beside its stage."""

    NAME = "name"
    INVOCATION_ID = "invocation_id"
    ACTION_DIGEST = "action_digest"
    WORKER = "worker"


class Condition(NamedTuple):
    """What *field* of an operation must, or must not, be."""

    field: Field
    value: str
    equal: bool


class OperationFilter(NamedTuple):
    """Operations in one of *states* for which all *conditions* hold."""

    states: Set[ActionState] = frozenset(ActionState)
    conditions: tuple[Condition, ...] = ()


_STAGES = {
    "queued": {ActionState.QUEUED},
    "executing": {ActionState.EXECUTING, ActionState.COMPLETING},
    "completed": {ActionState.COMPLETED},
}
_FIELDS = frozenset(field.value for field in Field)
_MAX_LENGTH = 8 * 1024
_MAX_CONDITIONS = 20
#: The quotes are ours: BuildGrid has no way to write a space or an ampersand.
_CONDITION = re.compile(r'\s*(?P<key>[a-z_]+)\s*(?P<is>!=|=)\s*(?:"(?P<quoted>[^"\0]*)"|(?P<plain>[^\s&=!<>"\0]+))\s*')
_DIGEST = re.compile(r"[0-9a-f]{1,128}/[0-9]{1,18}")
_GRAMMAR = (
    "write conditions such as 'stage = queued & worker != w1', with the keys stage (queued, executing, completed), "
    "name, invocation_id, action_digest (HASH/SIZE) and worker, with = or !=, joined by &"
)


def parse_filter(text: str, instance: str) -> OperationFilter:
    """Read a filter for the operations of *instance*; an empty one leaves none out (checklist OPS-10).

    Raises:
        InvalidRequest: it is none.
    """
    if len(text) > _MAX_LENGTH:
        raise InvalidRequest(f"a filter has at most {_MAX_LENGTH} characters", field="filter")
    found = OperationFilter()
    position = 0
    while text.strip():
        match = _CONDITION.match(text, position)
        if match is None:
            raise _unreadable(f"unsupported filter at {text[position : position + 100]!r}")
        found = _and(found, match, instance)
        position = match.end()
        if position == len(text):
            break
        if text[position] != "&":
            raise _unreadable(f"unsupported filter at {text[position : position + 100]!r}")
        position += 1
    return found


def _and(found: OperationFilter, match: re.Match[str], instance: str) -> OperationFilter:
    key, equal = match["key"], match["is"] == "="
    value: str = match["plain"] if match["quoted"] is None else match["quoted"]
    if key == "stage":
        named = _STAGES.get(value.lower())
        if named is None:
            raise _unreadable(f"there is no stage {value[:100]!r}")
        return found._replace(states=found.states & named if equal else found.states - named)
    if key not in _FIELDS:
        raise _unreadable(f"unknown key {key[:100]!r}")
    if key == Field.ACTION_DIGEST and not _DIGEST.fullmatch(value):
        raise _unreadable(f"{value[:100]!r} is no action_digest")
    if key == Field.NAME and not value.startswith(in_instance(instance, "")):
        value = in_instance(instance, value)
    if len(found.conditions) == _MAX_CONDITIONS:
        raise InvalidRequest(f"a filter has at most {_MAX_CONDITIONS} conditions", field="filter")
    return found._replace(conditions=(*found.conditions, Condition(Field(key), value, equal)))


def _unreadable(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what}; {_GRAMMAR}", field="filter")
