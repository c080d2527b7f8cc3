"""A Redis, as the settings describe it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from gridwright.errors import ConfigurationError
from gridwright.store_settings.redis import OnBackendFailure, RedisStoreSettings, RedisTopology
from gridwright_actioncache.results.redis_cluster import ClusterRedis
from gridwright_actioncache.results.redis_database import RedisDatabase
from gridwright_actioncache.results.redis_options import RedisOptions
from gridwright_actioncache.results.redis_single import SingleRedis

#: A lane has one read and one write on its way at a time, and what looks whether the server is back.
_MAX_CONNECTIONS = 16


def redis_options(settings: RedisStoreSettings) -> RedisOptions:
    """Return what *settings* say about results."""
    return RedisOptions(
        prefix=settings.key_prefix,
        expire_seconds=settings.expire_seconds,
        misses_in_trouble=settings.on_backend_failure is OnBackendFailure.MISS,
        answer_seconds=settings.timeout_seconds,
        write_retry_seconds=settings.write_retry_seconds,
    )


def redis_database(settings: RedisStoreSettings, environ: Mapping[str, str] = os.environ) -> RedisDatabase:
    """Return the Redis that *settings* name; it is connected to when it is used.

    Raises:
        ConfigurationError: a file or an environment variable that they name is not there.
    """
    address = settings.address
    options = _connection_options(settings, environ)
    name = str(address)
    match address.topology:
        case RedisTopology.CLUSTER:
            seeds = [ClusterNode(host, port) for host, port in address.hosts]
            # A server that is gone must leave time to ask the next one who has what.
            options["socket_timeout"] = settings.timeout_seconds
            # The seeds stay those of the settings: a name may stand for other servers tomorrow, an address may not.
            return ClusterRedis(
                RedisCluster(startup_nodes=seeds, require_full_coverage=False, dynamic_startup_nodes=False, **options),
                name=name,
            )
        case RedisTopology.SENTINEL:
            # Sentinels have users of their own, if any; they are asked without one.
            to_sentinels = {
                key: value for key, value in options.items() if key not in ("credential_provider", "max_connections")
            }
            # A sentinel that is gone must leave time to ask the next one.
            to_sentinels |= {key: settings.timeout_seconds / 2 for key in ("socket_timeout", "socket_connect_timeout")}
            sentinel = Sentinel(address.hosts, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]
            client = sentinel.master_for(address.master, db=address.database, **options)
            return _SentinelRedis(client, sentinel, name=name, key_prefix=settings.key_prefix)
        case RedisTopology.SINGLE:
            if address.path:
                options["unix_socket_path"] = address.path
            else:
                [(options["host"], options["port"])] = address.hosts
            client = Redis(db=address.database, **options)
            return SingleRedis(client, name=name, key_prefix=settings.key_prefix)


class _SentinelRedis(SingleRedis):
    """The server that sentinels name."""

    def __init__(self, client: Redis, sentinel: Sentinel, *, name: str, key_prefix: str) -> None:
        super().__init__(client, name=name, key_prefix=key_prefix)
        self._sentinel = sentinel

    async def aclose(self) -> None:
        await super().aclose()
        await self._sentinel.aclose()


def _connection_options(settings: RedisStoreSettings, environ: Mapping[str, str]) -> dict[str, Any]:
    address = settings.address
    options: dict[str, Any] = {
        "credential_provider": _credentials(settings, environ),
        # We try again ourselves, in our own time.
        "retry": Retry(NoBackoff(), 0),
        "max_connections": _MAX_CONNECTIONS,
        # Calls are bounded where they are made; a timer for each answer would cost more than the answer.
        "socket_timeout": None,
        "socket_connect_timeout": settings.timeout_seconds,
        # What every Redis, and what looks like one, speaks.
        "protocol": 2,
    }
    if address.tls:
        tls = settings.tls
        for key, path in (("ca_file", tls.ca_file), ("cert_file", tls.cert_file), ("key_file", tls.key_file)):
            if path is not None and not path.is_file():
                raise ConfigurationError(f"redis.tls.{key}: there is no file {path}")
        options |= {
            "ssl": True,
            "ssl_ca_certs": _text(tls.ca_file),
            "ssl_certfile": _text(tls.cert_file),
            "ssl_keyfile": _text(tls.key_file),
            "ssl_check_hostname": tls.check_hostname,
        }
    return options


def _credentials(settings: RedisStoreSettings, environ: Mapping[str, str]) -> CredentialProvider | None:
    username = settings.username or settings.address.username
    if settings.password_file is not None:
        if not settings.password_file.is_file():
            raise ConfigurationError(f"redis.password_file: there is no file {settings.password_file}")
        return _PasswordInFile(username, settings.password_file)
    password = settings.address.password
    if settings.password_env:
        if settings.password_env not in environ:
            raise ConfigurationError(f"redis.password_env: the environment has no variable {settings.password_env}")
        password = environ[settings.password_env]
    return _Password(username, password) if username or password else None


class _Password(CredentialProvider):
    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return (self._username, self._password) if self._username else (self._password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class _PasswordInFile(_Password):
    """Reads the file for each new connection, since passwords change while services run."""

    def __init__(self, username: str, path: Path) -> None:
        super().__init__(username, "")
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            self._password = self._path.read_text().strip()
        except OSError as error:
            raise AuthenticationError(f"cannot read the password in {self._path}: {error.strerror}") from None
        return super().get_credentials()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
