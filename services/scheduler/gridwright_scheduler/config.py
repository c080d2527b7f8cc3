"""What an operator can say about the scheduler."""

from __future__ import annotations

from pydantic import Field

from gridwright.digest import DigestFunction
from gridwright.instances import FunctionName
from gridwright.settings import Address, GridSettings, Section, ServerSettings


class BotsSettings(Section):
    """How workers are kept in touch with."""

    hold_seconds: float = Field(default=30.0, gt=0)
    """How long a worker's call is held while there is nothing to say. Proxies in between must allow for it."""

    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """How often a busy worker is asked to say a word."""

    silence_seconds: float = Field(default=15.0, gt=0)
    """A worker that said nothing for so long is gone, and what it held is run elsewhere. At least three heartbeats."""

    reattach_seconds: float = Field(default=15.0, ge=0)
    """How much longer than `silence_seconds` workers have to come back after a restart of the scheduler."""

    stock_digest_function: FunctionName = DigestFunction.SHA256
    """The digest function of workers that are not Gridwright's; actions of another wait for a worker of ours."""


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
    """The longest timeout that an action may ask for, and the one of an action that asks for none."""

    lease_grace_seconds: float = Field(default=600.0, gt=0)
    """How much longer than an action's timeout a worker may have it: for inputs, outputs and the way."""

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

    bots: BotsSettings = BotsSettings()
    """How workers are kept in touch with."""


class SchedulerFile(GridSettings):
    """The settings file, as the scheduler reads it."""

    scheduler: SchedulerSettings = SchedulerSettings()
    """The scheduler: decides which worker runs which action."""
