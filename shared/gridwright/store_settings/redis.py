"""A Redis, as an operator writes it."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from gridwright.quantities import SecondsBound
from gridwright.sections import Section

_PORT = 6379
_SENTINEL_PORT = 26379
_FORMS = (
    "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/MASTER, redis+cluster://HOST:PORT,HOST:PORT "
    "or unix:///PATH; rediss in place of redis for TLS"
)
_SCHEME = re.compile(r"(?P<tls>rediss?)(?:[+-](?P<topology>sentinel|cluster))?")
_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]+")


class RedisTopology(StrEnum):
    """How many servers there are, and who says which of them is asked."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class RedisAddress(NamedTuple):
    """What the address of a Redis says."""

    topology: RedisTopology
    #: The server, the sentinels, or those of a cluster that are asked for the others.
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    #: The Unix socket, where there are no hosts.
    path: str = ""
    database: int = 0
    #: What the sentinels call the server that takes writes.
    master: str = ""
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"<RedisAddress {self}>"

    def __str__(self) -> str:
        """The address without its secrets."""
        if self.path:
            return f"unix://{self.path}"
        topology = "" if self.topology is RedisTopology.SINGLE else f"+{self.topology}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        steps = [step for step in (self.master, str(self.database) if self.database else "") if step]
        return "/".join([f"redis{'s' if self.tls else ''}{topology}://{hosts}", *steps])

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Return what *url* says.

        Raises:
            ValueError: it is no address of a Redis; the text names no password.
        """
        scheme, slashes, rest = url.partition("://")
        if scheme == "unix" and slashes and rest.startswith("/"):
            return cls(RedisTopology.SINGLE, (), path=rest)
        match = _SCHEME.fullmatch(scheme)
        if match is None or not slashes:
            # Of an address without a scheme all stands there, also its secrets.
            start = repr(scheme) if slashes and scheme.isalpha() else "this"
            raise ValueError(f"{start} begins no address of a Redis; write {_FORMS}")
        topology = RedisTopology(match["topology"] or RedisTopology.SINGLE)
        try:
            parts = urlsplit(f"redis://{rest}")
        except ValueError:
            # What is wrong with it, the error says with parts of it.
            raise ValueError(f"this is no address of a Redis; write {_FORMS}") from None
        if "@" in parts.path + parts.query + parts.fragment:
            raise ValueError("in a user or password write %2F for /, %3F for ? and %23 for #, or use password_file")
        if parts.query or parts.fragment:
            raise ValueError("an address of a Redis has neither ? nor # here; what they would say are keys beside it")
        user, _, hosts = parts.netloc.rpartition("@")
        username, _, password = user.partition(":")
        default_port = _SENTINEL_PORT if topology is RedisTopology.SENTINEL else _PORT
        found = tuple(_host(one, default_port) for one in hosts.split(","))
        if topology is RedisTopology.SINGLE and len(found) > 1:
            raise ValueError("several servers are redis+cluster://… or, with sentinels, redis+sentinel://…/MASTER")
        master, database = _path(topology, parts)
        return cls(
            topology,
            found,
            tls=match["tls"] == "rediss",
            database=database,
            master=master,
            username=unquote(username),
            password=unquote(password),
        )


def _host(text: str, default_port: int) -> tuple[str, int]:
    one = urlsplit(f"//{text}")
    try:
        port = one.port or default_port
    except ValueError:
        port = 0
    if not one.hostname or not port:
        # A password without a host stands there, too.
        raise ValueError(f"one of its hosts is no HOST:PORT; write {_FORMS}")
    return one.hostname, port


def _path(topology: RedisTopology, parts: SplitResult) -> tuple[str, int]:
    """Return the master's name and the number of the database."""
    steps = [unquote(step) for step in parts.path.split("/") if step]
    master = ""
    if topology is RedisTopology.SENTINEL:
        if not steps:
            raise ValueError("what the sentinels call the master is missing; write redis+sentinel://HOST:PORT/MASTER")
        master = steps.pop(0)
    if not steps:
        return master, 0
    if topology is RedisTopology.CLUSTER or len(steps) > 1 or not steps[0].isdecimal():
        raise ValueError(f"{parts.path!r} names no database here; write {_FORMS}")
    return master, int(steps[0])


def _checked_url(url: str) -> str:
    RedisAddress.parse(url)
    return url


def _checked_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("write letters, digits, '_', '.', ':', '/' or '-', as in gridwright")
    return prefix


class OnBackendFailure(StrEnum):
    """What those hear who ask for a result while its store does not answer."""

    UNAVAILABLE = "unavailable"
    MISS = "miss"


class RedisTlsSettings(Section):
    """How a Redis at `rediss://` is known, and how it knows us."""

    ca_file: Path | None = None
    """Certificates of those who sign servers' certificates; by default those that the system trusts."""

    cert_file: Path | None = None
    """Our certificate, for a Redis that asks for one."""

    key_file: Path | None = None
    """The key of our certificate."""

    check_hostname: bool = True
    """Whether the server's certificate must be for the name that it is called by."""

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Self:
        if (self.cert_file is None) is not (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; write both, or neither")
        return self


class RedisStoreSettings(Section):
    """Action results in a Redis, so that any number of action caches share them."""

    url: Annotated[str, Field(repr=False), AfterValidator(_checked_url)] = "redis://127.0.0.1:6379"
    """`redis://HOST:PORT/DB`, `redis+sentinel://HOST:PORT,HOST:PORT/MASTER`, `redis+cluster://HOST:PORT,HOST:PORT` or
    `unix:///PATH`; with TLS `rediss://`, `rediss+sentinel://`, `rediss+cluster://`. `USER:PASSWORD@` may stand before
    the hosts; a file or an environment variable keeps the password out of this one."""

    username: str = ""
    """Who we are to Redis, if not its default user."""

    password_file: Path | None = None
    """A file with the password, read for each new connection, so that it may change."""

    password_env: str = ""
    """The name of an environment variable with the password."""

    tls: RedisTlsSettings = RedisTlsSettings()
    """For `rediss://`."""

    key_prefix: Annotated[str, AfterValidator(_checked_prefix)] = "gridwright"
    """What all keys begin with; the instance follows."""

    expire_seconds: SecondsBound = 0
    """Redis drops what was not used for so long; 0: only as its own `maxmemory-policy` says."""

    on_backend_failure: OnBackendFailure = OnBackendFailure.UNAVAILABLE
    """What lookups are told while Redis does not answer: `unavailable`, or `miss`, which builds again."""

    timeout_seconds: SecondsBound = Field(default=0.2, gt=0, le=60)
    """By when a call is answered, whatever Redis does."""

    write_retry_seconds: SecondsBound = Field(default=10, le=600)
    """How long a result that Redis does not take is tried again, before it is dropped."""

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        address = self.address
        given = [bool(address.password), self.password_file is not None, bool(self.password_env)]
        if sum(given) > 1:
            raise ValueError("the password is given twice; write one of password_file, password_env and that in url")
        if address.username and self.username:
            raise ValueError("the user is given twice; write username, or that in url")
        if self.tls != RedisTlsSettings() and not address.tls:
            raise ValueError("tls is for rediss://, and url begins with redis://")
        return self

    @property
    def address(self) -> RedisAddress:
        """What `url` says."""
        return RedisAddress.parse(self.url)
