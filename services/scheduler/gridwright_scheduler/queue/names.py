"""The identities that the scheduler deals in."""

from __future__ import annotations

from typing import NamedTuple, NewType

from gridwright.digest import Digest

#: One piece of work; random, never seen by anyone outside.
ActionId = NewType("ActionId", str)
#: "<instance>/<uuid4>": what a client calls its Execute call.
OperationName = NewType("OperationName", str)
#: "<instance>/<uuid4 in hexadecimal>": one attempt at an action by one bot; the fence of that attempt.
LeaseId = NewType("LeaseId", str)
#: "<instance>/<uuid4>": what the scheduler calls a bot from its CreateBotSession on.
SessionName = NewType("SessionName", str)
#: The identity of a set of requirements.
PlatformId = NewType("PlatformId", str)


class ActionKey(NamedTuple):
    """What makes two actions the same work."""

    instance: str
    digest: Digest


class BotKey(NamedTuple):
    """A bot, across all its sessions."""

    instance: str
    bot_id: str


def in_instance(instance: str, unique: str) -> str:
    """Return the name *unique* as one of *instance*, which may be the empty one."""
    return f"{instance}/{unique}" if instance else unique
