"""The identities that the scheduler deals in."""

from __future__ import annotations

import re
import uuid
from typing import NamedTuple, NewType

from gridwright.digest import Digest

#: One piece of work; random, never seen by anyone outside.
ActionId = NewType("ActionId", str)
#: "<instance>/<uuid4>": what a client calls its Execute call.
OperationName = NewType("OperationName", str)
#: "<instance>/<uuid4 in hexadecimal>.<fence>": one attempt at an action by one bot; see :func:`fence_of`.
LeaseId = NewType("LeaseId", str)
#: "<instance>/<uuid4>": what the scheduler calls a bot from its CreateBotSession on.
SessionName = NewType("SessionName", str)
#: One scheduler process, from its start to its end.
ReplicaId = NewType("ReplicaId", str)
#: The identity of a set of requirements.
PlatformId = NewType("PlatformId", str)

_FENCE = re.compile("[0-9]{1,18}", re.ASCII)


class ActionKey(NamedTuple):
    """What makes two actions the same work."""

    instance: str
    digest: Digest


class BotKey(NamedTuple):
    """A bot, across all its sessions."""

    instance: str
    bot_id: str


def new_lease_id(instance: str, fence: int) -> LeaseId:
    """Return a name for the lease number *fence* of an action of *instance*."""
    return LeaseId(in_instance(instance, f"{uuid.uuid4().hex}.{fence}"))


def fence_of(lease_id: LeaseId) -> int | None:
    """Return of which of its action's leases *lease_id* is the name; None: it is no name of ours."""
    digits = lease_id.rpartition(".")[2]
    return int(digits) if _FENCE.fullmatch(digits) else None


def in_instance(instance: str, unique: str) -> str:
    """Return the name *unique* as one of *instance*, which may be the empty one."""
    return f"{instance}/{unique}" if instance else unique
