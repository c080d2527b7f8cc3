"""Results in a Redis that is reached over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trustme

from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError, Unavailable
from gridwright.store_settings.redis import RedisStoreSettings
from gridwright_actioncache.redis_opening import redis_database, redis_options
from gridwright_actioncache.results.redis_store import RedisResultStore
from tests.actioncache.contract import an_action
from tests.actioncache.redis_servers import a_health, free_port, redis_server


class Certificates:
    """An authority, and what it signed."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.server = self._issue(authority, directory / "server", "localhost")
        self.client = self._issue(authority, directory / "client", "actioncache")

    def _issue(self, authority: trustme.CA, directory: Path, name: str) -> tuple[Path, Path]:
        directory.mkdir()
        issued = authority.issue_cert(name)
        certificate, key = directory / "cert.pem", directory / "key.pem"
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        return certificate, key


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def port(tmp_path: Path, certificates: Certificates) -> Iterator[int]:
    """The port of a Redis that wants certificates of its clients."""
    port = free_port()
    certificate, key = map(str, certificates.server)
    tls = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key)
    with redis_server(tmp_path / "redis", *tls, "--tls-ca-cert-file", str(certificates.ca)):
        yield port


def opened(url: str, tls: dict[str, object]) -> AbstractAsyncContextManager[RedisResultStore]:
    said = RedisStoreSettings.model_validate({"url": url, "tls": tls, "timeout_seconds": 20})
    return RedisResultStore.open(redis_database(said), SystemClock(), redis_options(said), a_health())


async def test_both_sides_show_certificates(port: int, certificates: Certificates) -> None:
    certificate, key = certificates.client
    tls: dict[str, object] = {"ca_file": certificates.ca, "cert_file": certificate, "key_file": key}
    async with opened(f"rediss://localhost:{port}", tls) as store:
        action = an_action()
        await store.put("main", action, b"x")
        assert await store.get_many("main", [action]) == {action: b"x"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_server_that_is_not_known_or_not_the_one_is_refused(
    port: int, certificates: Certificates, host: str
) -> None:
    certificate, key = certificates.client
    # By its name it would be the one, but nobody known signed that; by its address it is another one.
    ca = {} if host == "localhost" else {"ca_file": certificates.ca}
    async with opened(f"rediss://{host}:{port}", {"cert_file": certificate, "key_file": key, **ca}) as store:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await store.get_many("main", [an_action()])


async def test_a_client_without_a_certificate_is_refused(port: int, certificates: Certificates) -> None:
    async with opened(f"rediss://localhost:{port}", {"ca_file": certificates.ca}) as store:
        with pytest.raises(Unavailable):
            await store.get_many("main", [an_action()])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"tls": {"ca_file": "nowhere.pem"}}, "redis.tls.ca_file: there is no file nowhere.pem"),
        ({"password_file": "nowhere"}, "redis.password_file: there is no file nowhere"),
        ({"password_env": "NOBODY"}, "redis.password_env: the environment has no variable NOBODY"),
    ],
)
def test_what_is_not_there_is_told_at_the_start(said: dict[str, object], why: str) -> None:
    settings = RedisStoreSettings.model_validate({"url": "rediss://localhost", **said})
    with pytest.raises(ConfigurationError, match=why):
        redis_database(settings, {})
