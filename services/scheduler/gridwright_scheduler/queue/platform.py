"""What an action needs of a bot, what a bot offers, and whether the two fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import NamedTuple

from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.property_rules import PropertyRules, Wanted, is_number

#: The worker property by which a worker of ours says so; it is never matched.
OURS = "gridwright"


class Requirements(NamedTuple):
    """What a bot must offer to be given an action; actions with equal ones share a queue."""

    instance: str
    #: Sorted, each pair once: the bot must offer every one of them (checklist PLAT-05).
    properties: tuple[tuple[str, Wanted], ...]
    #: Stock workers know one digest function, and produce no output for the legacy output fields.
    ours_only: bool


class Offer(NamedTuple):
    """What a bot has."""

    instance: str
    #: A bot may offer several values under one name.
    properties: frozenset[tuple[str, str]]
    #: Whether it is a worker of ours, which takes any action.
    ours: bool


def requirements_of(
    instance: str,
    function: DigestFunction,
    action: pb.Action,
    command: pb.Command,
    *,
    rules: PropertyRules,
    stock_function: DigestFunction,
) -> Requirements:
    """Return what a bot must offer to run *action*, as *rules* take its properties.

    The Action's platform wins over the Command's (checklist PLAT-01, PLAT-02).

    Raises:
        InvalidRequest: *rules* refuse a property.
    """
    platform = action.platform if action.HasField("platform") else command.platform
    asked = [(one.name, one.value) for one in platform.properties]
    if defaults := rules.defaults.get(instance):
        named = {name for name, _ in asked}
        asked += [(name, value) for name, value in defaults.items() if name not in named]
    properties = {wanted for name, value in asked if (wanted := rules.wanted(name, value)) is not None}
    legacy = not command.output_paths and bool(command.output_files or command.output_directories)
    return Requirements(instance, tuple(sorted(properties)), function is not stock_function or legacy)


@lru_cache(maxsize=4096)
def platform_id(requirements: Requirements) -> PlatformId:
    """Return the identity of *requirements*, the same in every process."""
    return PlatformId(hashlib.sha256(json.dumps(requirements).encode()).hexdigest()[:32])


@lru_cache(maxsize=65536)
def serves(offer: Offer, requirements: Requirements) -> bool:
    """Whether a bot with *offer* can run an action with *requirements*; case matters (PLAT-07)."""
    return (
        offer.instance == requirements.instance
        and (offer.ours or not requirements.ours_only)
        and all(_offers(offer, name, value) for name, value in requirements.properties)
    )


def why_nobody_serves(requirements: Requirements, offers: Collection[Offer]) -> str:
    """Say, for the person whose action nobody can run, which property is in the way."""
    offers = [offer for offer in offers if offer.instance == requirements.instance]
    if not offers:
        return "no worker is connected"
    for name, value in lacking(requirements, offers):
        known = sorted({held for offer in offers for key, held in offer.properties if key == name})
        offered = f"workers offer {_listed(known)}" if known else "no worker offers that property at all"
        return f"no worker has the platform property {in_words(name, value)}: {offered}"
    if requirements.ours_only and not any(offer.ours for offer in offers):
        return (
            "the connected workers know neither output_files and output_directories nor other digest functions than "
            "their own; send output_paths, or run a Gridwright worker"
        )
    wanted = ", ".join(in_words(name, value) for name, value in requirements.properties)
    return f"no single worker has all of the platform properties {wanted}"


def lacking(requirements: Requirements, offers: Collection[Offer]) -> list[tuple[str, Wanted]]:
    """Return those properties of *requirements* that none of *offers* has."""
    return [
        (name, value)
        for name, value in requirements.properties
        if not any(_offers(offer, name, value) for offer in offers)
    ]


def in_words(name: str, value: Wanted) -> str:
    """Return how a person would write the property *name* of which *value* is wanted."""
    if value is None:
        return f"{name}, of any value"
    return f"{name}={value}" if isinstance(value, str) else f"{name}>={value}"


def _offers(offer: Offer, name: str, value: Wanted) -> bool:
    if isinstance(value, str):
        return (name, value) in offer.properties
    offered = [held for key, held in offer.properties if key == name]
    return bool(offered) if value is None else any(is_number(held) and int(held) >= value for held in offered)


def _listed(values: Iterable[str]) -> str:
    values = list(values)
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
