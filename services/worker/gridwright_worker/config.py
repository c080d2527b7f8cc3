"""What an operator can say about the worker."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gridwright.instances import InstanceName
from gridwright.quantities import ByteSize
from gridwright.sections import Section
from gridwright.settings import MAX_SLOTS, Address, GridSettings

#: How REAPI's platform lexicon calls what the kernel calls otherwise.
_ISA = {"x86_64": "x86-64", "aarch64": "arm-a64"}


def _one_or_many(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: (values,) if isinstance(values, str) else values for name, values in value.items()}
    return value


#: Name to values; a single value may stand for itself.
Platform = Annotated[Mapping[str, tuple[str, ...]], BeforeValidator(_one_or_many)]


def _this_platform() -> Platform:
    machine = platform.machine()
    return {"OSFamily": ("linux",), "ISA": (_ISA.get(machine, machine),)}


class WorkerSettings(Section):
    """The worker: it takes actions from the scheduler and runs them."""

    admin: Address = Address("127.0.0.1:9074")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    name: str | None = None
    """What the scheduler and results call this worker. By default the host's name and a mark of `root`, so that a
    worker that is restarted is known again, and two on one host are not taken for one."""

    bots: str | None = None
    """The gRPC target of the Bots service; by default `endpoints.scheduler`."""

    cas: str | None = None
    """The gRPC target of the CAS; by default `endpoints.cas`."""

    instance: InstanceName | None = None
    """The instance whose actions are run; by default the grid's first."""

    root: Path = Path("worker")
    """The directory of the input cache and of the slots. One process at a time uses it."""

    slots: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=MAX_SLOTS)
    """How many actions run at once, 1,000 at most; by default as many as there are cores."""

    runner: Literal["hosttools"] = "hosttools"
    """How commands are run. `hosttools`: as plain processes that see the host."""

    cache_max_bytes: ByteSize = 10 * 10**9
    """How large the input cache may grow; the inputs of all actions that run at once must fit."""

    platform: Platform = Field(default_factory=_this_platform)
    """What the worker offers: property names, each with a value or a list of them."""

    default_timeout_seconds: float = Field(default=14_400.0, gt=0)
    """How long an action may run that says nothing about it. By default as `scheduler.max_execution_seconds`, after
    which the scheduler takes the action away in any case: set both together."""

    max_timeout_seconds: float = Field(default=86_400.0, gt=0)
    """The longest timeout that an action may ask for. The scheduler refuses what is longer than its
    `max_execution_seconds` before a worker hears of it; this one is for schedulers that do not."""

    kill_grace_seconds: float = Field(default=1.0, ge=0)
    """Between SIGTERM and SIGKILL for an action that ran out of time."""

    drain_seconds: float = Field(default=60.0, ge=0)
    """How long running actions may go on after SIGTERM before they are handed back to the scheduler."""


class WorkerFile(GridSettings):
    """The settings file as the worker reads it."""

    worker: WorkerSettings = WorkerSettings()
    """The worker."""
