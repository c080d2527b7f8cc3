"""Settings: one YAML file for the whole grid, environment variables over it, errors with their path.

Each service reads the same file. It takes ``instances``, ``endpoints``, ``auth`` and ``log``,
which mean the same to all, and its own section; the sections of other services are left
to them. ``GRIDWRIGHT_CAS__LISTEN=127.0.0.1:50071`` sets ``cas.listen``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from gridwright.errors import ConfigurationError
from gridwright.instances import InstancesSettings
from gridwright.telemetry.logging import LogFormat

#: The sections of the services; every service accepts them all and reads its own.
SERVICE_SECTIONS = ("cas", "actioncache", "scheduler", "worker", "gateway")
ENVIRONMENT_PREFIX = "GRIDWRIGHT_"
#: How many actions one worker may run at once; the scheduler refuses a worker that says more.
MAX_SLOTS = 1_000

_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def _parse_size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write a number of bytes, or '64kb', '512MiB', '10Gb'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


#: A number of bytes, also written "64kb" (thousands), "64KiB" or "64k" (1,024).
ByteSize = Annotated[PositiveInt, BeforeValidator(_parse_size)]


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


class Section(BaseModel):
    """A part of the settings: unknown keys are errors, and the docstring of a field is its reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OneOf(Section):
    """A choice, written as a mapping with a single key that says of what kind it is: ``{memory: {…}}``.

    Each field of a subclass is one kind, and None unless it was chosen.
    """

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(given) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"write exactly one of {known}; given: {', '.join(given) or 'none'}")
        return self


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

    endpoints: EndpointsSettings = EndpointsSettings()
    """Where the services find each other."""

    auth: AuthSettings = AuthSettings()
    """Who may call."""

    log: LogSettings = LogSettings()
    """How this grid logs."""


S = TypeVar("S", bound=GridSettings)


def load_settings(model: type[S], *, path: Path | None, environ: Mapping[str, str]) -> S:
    """Read the settings that *model* describes from the file at *path* and from *environ*.

    Raises:
        ConfigurationError: naming each key that is unknown or whose value is bad.
    """
    source = str(path) if path else "the environment"
    data = _read_file(path) if path else {}
    for name, value in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            _set(data, name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), value, name)
    for section in SERVICE_SECTIONS:
        if section not in model.model_fields:
            data.pop(section, None)
    return validate_settings(model, data, source=source)


def validate_settings(model: type[S], data: Mapping[str, Any], *, source: str) -> S:
    """Return *data* as *model*.

    Raises:
        ConfigurationError: naming each key that is unknown or whose value is bad.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(step) for step in fault['loc']) or 'settings'}: {_explain(fault)}"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigurationError("\n".join([f"the settings in {source} cannot be used:", *lines])) from None


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
