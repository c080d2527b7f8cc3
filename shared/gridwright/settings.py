"""Settings: one YAML file for the whole grid, environment variables over it, errors with their path.

Each service reads the same file. It takes ``instances``, ``stores``, ``endpoints``, ``auth`` and
``log``, which mean the same to all, and its own section; the sections of other services are left
to them. ``GRIDWRIGHT_CAS__LISTEN=127.0.0.1:50071`` sets ``cas.listen``, and
``GRIDWRIGHT_INSTANCES='[{name: main}, {name: team/a}]'`` the instances.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from gridwright.errors import ConfigurationError
from gridwright.instances import InstancesSettings
from gridwright.sections import Section
from gridwright.store_settings.named_stores import Fault, NamedStores, Root, Use
from gridwright.store_settings.store import NamedStoreSettings, StoreSettings
from gridwright.telemetry.logging import LogFormat

#: The sections of the services; every service accepts them all and reads its own.
SERVICE_SECTIONS = ("cas", "actioncache", "scheduler", "worker", "gateway")
#: What the services keep that have a `store`.
_USES = {"cas": Use.BLOBS, "actioncache": Use.RESULTS}
ENVIRONMENT_PREFIX = "GRIDWRIGHT_"
#: The keys beside the sections. An environment variable sets one of them as a whole; other variables without a `__`
#: are no settings, as container platforms make their own from the names of services.
_LISTS = ("instances", "stores")
#: How many actions one worker may run at once; the scheduler refuses a worker that says more.
MAX_SLOTS = 1_000


class Address(str):
    """Where a service listens: ``host:port``, ``[ipv6]:port``, or ``unix:path``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return *text* as an Address.

        Raises:
            ValueError: it is none.
        """
        address = cls(text)
        if address.is_unix:
            path = text.removeprefix("unix:")
            # The kernel's sockaddr_un holds 108 bytes with the NUL.
            if not path or len(path.encode()) > 107:
                raise ValueError(f"{text!r}: a Unix socket's path has 1 to 107 bytes; use a relative or shorter one")
            return address
        host, port = address.host_and_port
        if not host or not 0 <= port <= 65535:
            raise ValueError(f"{text!r} is not an address; write HOST:PORT or unix:PATH")
        return address

    @property
    def is_unix(self) -> bool:
        return self.startswith("unix:")

    @property
    def unix_path(self) -> Path | None:
        """The path of the Unix socket, if it is one."""
        return Path(self.removeprefix("unix:")) if self.is_unix else None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The host, without brackets, and the port of a TCP address."""
        host, _, port = self.rpartition(":")
        return host.strip("[]"), int(port) if port.isdecimal() else -1

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.is_unix:
            return True
        host, _ = self.host_and_port
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


class LogSettings(Section):
    """How this grid logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are dropped."""

    format: LogFormat = LogFormat.AUTO
    """`auto`, `json` or `text`."""


class EndpointsSettings(Section):
    """Where the services find each other, as gRPC targets (`unix:run/cas.sock`, `dns:///cas:50071`)."""

    cas: str = "127.0.0.1:50071"
    """The CAS: ContentAddressableStorage, ByteStream, Capabilities."""

    actioncache: str = "127.0.0.1:50072"
    """The action cache."""

    scheduler: str = "127.0.0.1:50073"
    """The scheduler: Execution, Operations, Bots."""


class AuthSettings(Section):
    """Who may call."""

    trust_network: bool = False
    """Whether callers from other machines have the rights that this machine's have; for a private network only."""

    local_operators: bool = False
    """Whether those who need not say who they are may also operate the grid, as with `gridwright ac purge`. Whoever
    reaches the gateway is one of them."""


class ServerSettings(Section):
    """What the section of every service has."""

    listen: Address
    """Where gRPC is served."""

    admin: Address
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    drain_seconds: float = Field(default=10.0, gt=0)
    """How long calls in flight may go on after SIGTERM."""


class GridSettings(InstancesSettings):
    """The settings that mean the same to every service."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    stores: tuple[NamedStoreSettings, ...] = ()
    """Stores that have a name, for `ref_store`. Each service opens those that its own store refers to."""

    endpoints: EndpointsSettings = EndpointsSettings()
    """Where the services find each other."""

    auth: AuthSettings = AuthSettings()
    """Who may call."""

    log: LogSettings = LogSettings()
    """How this grid logs."""

    @property
    def store_roots(self) -> Sequence[Root]:
        """The stores of this service; a service that has some says so."""
        return ()

    def own_faults(self) -> Iterator[Fault]:
        """Yield what makes no sense together, where each key and each composition by itself does."""
        yield from ()


S = TypeVar("S", bound=GridSettings)


def load_settings(model: type[S], *, path: Path | None, environ: Mapping[str, str]) -> S:
    """Read the settings that *model* describes from the file at *path* and from *environ*.

    Raises:
        ConfigurationError: naming each key that is unknown or whose value is bad.
    """
    source = str(path) if path else "the environment"
    data = _read_file(path) if path else {}
    for name, value in sorted(environ.items()):
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name.startswith(ENVIRONMENT_PREFIX) and ("__" in key or key in _LISTS):
            _set(data, key.split("__"), value, name)
    return validate_settings(model, data, source=source)


def validate_settings(model: type[S], data: Mapping[str, Any], *, source: str) -> S:
    """Return *data* as *model*, which leaves the sections of other services to them.

    Raises:
        ConfigurationError: naming each key that is unknown or whose value is bad, and each composition of stores
            and keys that make no sense.
    """
    others = {name for name in SERVICE_SECTIONS if name not in model.model_fields}
    try:
        settings = model.model_validate({name: value for name, value in data.items() if name not in others})
    except ValidationError as error:
        faults = [(_path(fault["loc"], data), _explain(fault)) for fault in error.errors(include_url=False)]
    else:
        neighbours = [root for name in others for root in _store_root(name, data.get(name))]
        faults = [*NamedStores(settings.stores).faults(settings.store_roots, neighbours)] or [*settings.own_faults()]
        if not faults:
            return settings
    lines = [f"{path}: {message}" for path, message in faults]
    raise ConfigurationError("\n".join([f"the settings in {source} cannot be used:", *lines]))


def _path(steps: Sequence[int | str], data: Mapping[str, Any]) -> str:
    """Return a key as operators write it; a store in the list `stores` goes by its name."""
    match steps, data:
        case ("stores", int(index), *rest), {"stores": [*stores]}:
            entry = stores[index]
            name = entry.get("name") if isinstance(entry, Mapping) else None
            steps = ("stores", index if name is None else str(name), *rest)
        case _:
            pass
    return ".".join(map(str, steps)) or "settings"


def _store_root(section: str, data: object) -> Iterator[Root]:
    """Yield the store in the section of another service, which complains itself where that is not one."""
    if section in _USES and isinstance(data, Mapping) and "store" in data:
        with suppress(ValidationError):
            yield Root(f"{section}.store", StoreSettings.model_validate(data["store"]), _USES[section])


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the settings file {path} is not YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"the settings file {path} must be a mapping of sections, not a {type(data).__name__}")
    return data


def _set(data: dict[str, Any], steps: list[str], value: str, name: str) -> None:
    *parents, last = steps
    for step in parents:
        child = data.setdefault(step, {})
        if not isinstance(child, dict):
            raise ConfigurationError(f"the environment variable {name} sets a key inside {step!r}, which is a value")
        data = child
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the value of the environment variable {name} is not YAML: {error}") from None


def _explain(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key; remove it, or look for a typing error"
    if fault["type"] == "missing":
        return "required, and not given"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]
