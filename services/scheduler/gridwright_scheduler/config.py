"""What an operator can say about the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from gridwright.digest import DigestFunction
from gridwright.errors import InvalidRequest
from gridwright.instances import FunctionName
from gridwright.sections import Section
from gridwright.settings import Address, GridSettings, ServerSettings
from gridwright_scheduler.queue.property_rules import PropertyKind, PropertyRules, UnknownProperties

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

    max_sessions: int = Field(default=20_000, gt=0)
    """How many workers may talk to one scheduler; more hear UNAVAILABLE, and try again."""

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


_SQLITE = "sqlite:///"
_POSTGRESQL = ("postgresql://", "postgres://")


def _checked_url(url: str) -> str:
    if not url.startswith(_POSTGRESQL) and not (url.startswith(_SQLITE) and url != _SQLITE):
        raise ValueError("write sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE")
    return url


DatabaseUrl = Annotated[str, AfterValidator(_checked_url)]


class Migrate(StrEnum):
    """When the tables are brought up to date."""

    AUTO = "auto"
    NEVER = "never"


class DatabaseSettings(Section):
    """Where operations and actions are kept."""

    url: DatabaseUrl = Field(default="sqlite:///scheduler.db", repr=False)
    """`sqlite:///PATH`, relative to the working directory, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, which
    may have the parameters that libpq knows, such as `?sslmode=verify-full`."""

    notify_url: DatabaseUrl | None = Field(default=None, repr=False)
    """Where schedulers that share a PostgreSQL hear of each other, if `url` names a pooler: the server itself, as
    notices do not come through a pooler that shares connections out by the transaction."""

    password_file: Path | None = None
    """A file with the password for PostgreSQL, read for each new connection, so that it may change."""

    password_env: str = ""
    """The name of an environment variable with the password for PostgreSQL."""

    pool_size: int = Field(default=5, ge=2, le=100)
    """How many connections to PostgreSQL there are at most: one writes, the others read. There is one more, on which
    schedulers hear of each other."""

    prepared_statements: bool = True
    """Write false where a pooler such as PgBouncer shares connections out by the transaction."""

    migrate: Migrate | None = None
    """Whether the scheduler brings the tables up to date when it starts (`auto`), or ends if they are not (`never`),
    so that `gridwright-scheduler migrate` has to be run before. Not set: `auto` for SQLite, `never` for PostgreSQL."""

    @model_validator(mode="after")
    def _only_servers_notify(self) -> Self:
        if self.notify_url is not None and not (self.is_postgresql and self.notify_url.startswith(_POSTGRESQL)):
            raise ValueError("notify_url: leave it out, unless url and notify_url name the same PostgreSQL")
        return self

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file is not None and self.password_env:
            raise ValueError("write password_file or password_env, not both")
        return self

    @property
    def is_postgresql(self) -> bool:
        """Whether `url` names a PostgreSQL."""
        return self.url.startswith(_POSTGRESQL)

    @property
    def path(self) -> str:
        """The file of an SQLite."""
        return self.url.removeprefix(_SQLITE)

    @property
    def migrates_at_start(self) -> bool:
        """Whether the tables are to be brought up to date at the start."""
        return self.migrate is Migrate.AUTO or (self.migrate is None and not self.is_postgresql)


class SchedulerSettings(ServerSettings):
    """The section `scheduler`."""

    listen: Address = Address("127.0.0.1:50073")
    """Where gRPC is served: Execution, Operations, Bots, Capabilities."""

    admin: Address = Address("127.0.0.1:9073")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    database: DatabaseSettings = DatabaseSettings()
    """Where operations and actions are kept."""

    database_url: DatabaseUrl | None = Field(default=None, repr=False)
    """A short form of `database.url`."""

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

    abandon_after_seconds: float = Field(default=60.0, ge=0)
    """How long an operation goes on that no stream is open for and nobody asks for; then it is cancelled, up to 25
    seconds later. The time begins anew when a scheduler starts. 0: it goes on to its end."""

    keepalive_seconds: float = Field(default=30.0, gt=0)
    """How often a stream of an operation in which nothing changes repeats itself."""

    cache_lookup_seconds: float = Field(default=2.0, gt=0)
    """How long the action cache may take to answer before that counts as a miss."""

    cache_write_seconds: float = Field(default=0.25, gt=0)
    """How long a client waits for its result to be written to the action cache. The write goes on without it."""

    ignored_properties: frozenset[str] = frozenset({"chrootRootDigest"})
    """Platform properties that are for the runner, and not matched against what workers offer."""

    platform_properties: Mapping[str, PropertyKind] = {}
    """How a platform property is matched, by its name: `exact` (a worker must offer this value), `minimum` (a number: a
    worker must offer at least that), `priority` (a worker must offer the property, with any value) and `ignore` (for
    people and runners: any worker will do)."""

    unknown_properties: UnknownProperties | None = None
    """What becomes of a platform property that is named neither in `platform_properties` nor in `ignored_properties`:
    it is matched as `exact`, the action is refused with its name (`refuse`), or it is left to the runner (`ignore`).
    Not set: `refuse` if `platform_properties` names any, else `exact`."""

    platform_defaults: Mapping[str, Mapping[str, str]] = {}
    """By instance, platform properties of actions that do not name them, for example `{main: {OSFamily: linux}}`. They
    decide which worker runs an action; what the worker is given stays as the client made it."""

    avoid_failed_worker_seconds: float = Field(default=30.0, ge=0)
    """How long an action that is tried again waits for another worker than those that failed it; after that any will
    do."""

    bots: BotsSettings = BotsSettings()
    """How workers are kept in touch with."""

    @model_validator(mode="after")
    def _one_database(self) -> Self:
        if self.database_url is not None and "url" in self.database.model_fields_set:
            raise ValueError("write database.url or its short form database_url, not both")
        return self

    @property
    def state(self) -> DatabaseSettings:
        """Where operations and actions are kept, in whichever form it was written."""
        if self.database_url is None:
            return self.database
        return self.database.model_copy(update={"url": self.database_url})

    @model_validator(mode="after")
    def _defaults_are_taken(self) -> Self:
        rules = self.property_rules
        for instance, properties in self.platform_defaults.items():
            for name, value in properties.items():
                try:
                    rules.wanted(name, value)
                except InvalidRequest as error:
                    raise ValueError(f"platform_defaults.{instance}.{name}: {error}") from None
        return self

    @property
    def property_rules(self) -> PropertyRules:
        """How the platform properties of actions are taken."""
        unless_said = UnknownProperties.REFUSE if self.platform_properties else UnknownProperties.EXACT
        return PropertyRules(
            self.platform_properties,
            self.ignored_properties,
            self.unknown_properties or unless_said,
            self.platform_defaults,
        )


class SchedulerFile(GridSettings):
    """The settings file, as the scheduler reads it."""

    scheduler: SchedulerSettings = SchedulerSettings()
    """The scheduler: decides which worker runs which action."""

    @model_validator(mode="after")
    def _defaults_are_of_instances(self) -> Self:
        names = {instance.name for instance in self.instances}
        if unknown := sorted(self.scheduler.platform_defaults.keys() - names):
            raise ValueError(
                f"scheduler.platform_defaults.{unknown[0]}: there is no such instance; there are {sorted(names)}"
            )
        return self
