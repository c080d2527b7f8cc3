"""Who may write the action cache of an instance."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum

from gridwright.auth.identity import Role


class ResultWriters(StrEnum):
    """Whose results an instance takes; those of its scheduler always."""

    SCHEDULER = "scheduler"
    """Only results of actions that the grid itself has run: no client can spoil another one's build."""
    WRITERS = "writers"
    """Also those of callers with the role writer."""
    ANYONE = "anyone"
    """Also those of all who may read."""


#: Which roles may write, and by what right they do.
_RIGHTS = {
    ResultWriters.SCHEDULER: {Role.SCHEDULER: "scheduler"},
    ResultWriters.WRITERS: {Role.SCHEDULER: "scheduler", Role.WRITER: "writer"},
    ResultWriters.ANYONE: {Role.SCHEDULER: "scheduler", Role.WRITER: "writer", Role.READER: "anyone"},
}


def right_to_write(writers: ResultWriters, roles: Set[Role]) -> str | None:
    """Return by what right a caller with *roles* may write results where *writers* may; None: by none.

    What GetCapabilities says and what UpdateActionResult does both come from here (checklist
    CAP-13, ACU-05), and the right is kept beside the result.
    """
    return next((right for role, right in _RIGHTS[writers].items() if role in roles), None)
