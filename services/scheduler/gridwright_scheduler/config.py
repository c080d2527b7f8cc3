"""What an operator can say about the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import Field, field_validator, model_validator

from gridwright.digest import DigestFunction
from gridwright.instances import FunctionName
from gridwright.sections import Section
from gridwright.settings import Address, GridSettings, ServerSettings

#: Workers of ours give a call up after 60 seconds; the answer must be on its way well before.
_MAX_HOLD_SECONDS = 45.0
#: One word may be late and one be lost.
_HEARTBEATS_OF_SILENCE = 3


class BotsSettings(Section):
    """How workers are kept in touch with."""

    hold_seconds: float = Field(default=30.0, gt=0)
    """How long a worker's call is held while there is nothing to say, at most 45: workers hang up after 60 seconds.
    Proxies in between must allow for it."""

    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """How often a busy worker is asked to say a word."""

    silence_seconds: float = Field(default=15.0, gt=0)
    """A worker that said nothing for so long is gone, and what it held is run elsewhere. At least three times
    `heartbeat_seconds`."""

    reattach_seconds: float = Field(default=15.0, ge=0)
    """How much longer than `silence_seconds` workers have to come back after a restart of the scheduler."""

    stock_digest_function: FunctionName = DigestFunction.SHA256
    """The digest function of workers that are not Gridwright's; actions of another wait for a worker of ours."""

    @field_validator("hold_seconds")
    @classmethod
    def _before_workers_hang_up(cls, seconds: float) -> float:
        if seconds > _MAX_HOLD_SECONDS:
            raise ValueError(f"write at most {_MAX_HOLD_SECONDS:g}; workers hang up after 60 seconds without an answer")
        return seconds

    @model_validator(mode="after")
    def _a_late_word_is_no_silence(self) -> Self:
        if self.silence_seconds < _HEARTBEATS_OF_SILENCE * self.heartbeat_seconds:
            raise ValueError(
                f"silence_seconds ({self.silence_seconds:g}) must be at least {_HEARTBEATS_OF_SILENCE} times "
                f"heartbeat_seconds ({self.heartbeat_seconds:g}); else workers that are only late are taken for gone"
            )
        return self


class PropertyKind(StrEnum):
    """How what an action asks for is compared with what a worker offers."""

    EXACT = "exact"
    MINIMUM = "minimum"
    PRIORITY = "priority"
    IGNORE = "ignore"


class SchedulerSettings(ServerSettings):
    """The section `scheduler`."""

    listen: Address = Address("127.0.0.1:50073")
    """Where gRPC is served: Execution, Operations, Bots, Capabilities."""

    admin: Address = Address("127.0.0.1:9073")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    database_url: str = "sqlite:///scheduler.db"
    """Where operations and actions are kept: `sqlite:///PATH`, relative to the working directory."""

    max_queued: int = Field(default=100_000, gt=0)
    """How many actions may wait for a worker; beyond that, Execute is refused with RESOURCE_EXHAUSTED."""

    max_attempts: int = Field(default=5, gt=0)
    """How often an action is tried whose worker is lost or reports a fault of its own."""

    max_execution_seconds: float = Field(default=14_400.0, gt=0)
    """The longest timeout that an action may ask for, and the one of an action that asks for none. A worker ends
    actions of the latter kind by its own `worker.default_timeout_seconds`, which is the same unless it is set."""

    lease_grace_seconds: float = Field(default=600.0, gt=0)
    """How much longer than an action's timeout, or `max_execution_seconds` if it has none, a worker may have it: for
    inputs, outputs and the way."""

    no_worker_grace_seconds: float = Field(default=300.0, ge=0)
    """How long an action waits that no connected worker can run, before it is refused."""

    retention_seconds: float = Field(default=600.0, gt=0)
    """How long operations can be asked for after they are done."""

    keepalive_seconds: float = Field(default=30.0, gt=0)
    """How often a stream of an operation in which nothing changes repeats itself."""

    cache_lookup_seconds: float = Field(default=2.0, gt=0)
    """How long the action cache may take to answer before that counts as a miss."""

    cache_write_seconds: float = Field(default=0.25, gt=0)
    """How long a client waits for its result to be written to the action cache. The write goes on without it."""

    ignored_properties: frozenset[str] = frozenset({"chrootRootDigest"})
    """Platform properties that are for the runner, and not matched against what workers offer."""

    platform_properties: Mapping[str, PropertyKind] = {}
    """How a platform property is matched, by its name: `exact` (as all that are not named here: a worker must offer
    this value), `minimum` (a number: a worker must offer at least that), `priority` and `ignore` (for people and
    runners: any worker will do)."""

    bots: BotsSettings = BotsSettings()
    """How workers are kept in touch with."""

    def properties_of(self, kind: PropertyKind) -> frozenset[str]:
        """Return the names of the platform properties that are matched as *kind*."""
        return frozenset(name for name, one in self.platform_properties.items() if one is kind)


class SchedulerFile(GridSettings):
    """The settings file, as the scheduler reads it."""

    scheduler: SchedulerSettings = SchedulerSettings()
    """The scheduler: decides which worker runs which action."""
