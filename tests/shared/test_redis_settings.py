"""The address of a Redis, and what is said beside it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gridwright.store_settings.redis import RedisAddress, RedisStoreSettings, RedisTopology


@pytest.mark.parametrize(
    ("url", "topology", "hosts", "shown"),
    [
        ("redis://r", "single", [("r", 6379)], "redis://r:6379"),
        ("redis://u:secret@r:7/3", "single", [("r", 7)], "redis://r:7/3"),
        ("rediss://[::1]:7", "single", [("::1", 7)], "rediss://[::1]:7"),
        ("unix:///run/redis.sock", "single", [], "unix:///run/redis.sock"),
        ("redis+sentinel://a:1,b/m", "sentinel", [("a", 1), ("b", 26379)], "redis+sentinel://a:1,b:26379/m"),
        ("rediss-sentinel://:secret@a/m/2", "sentinel", [("a", 26379)], "rediss+sentinel://a:26379/m/2"),
        ("redis+cluster://a,b:7", "cluster", [("a", 6379), ("b", 7)], "redis+cluster://a:6379,b:7"),
        ("rediss-cluster://a", "cluster", [("a", 6379)], "rediss+cluster://a:6379"),
    ],
)
def test_an_address_is_read_and_shown_without_its_secrets(
    url: str, topology: str, hosts: list[tuple[str, int]], shown: str
) -> None:
    address = RedisAddress.parse(url)
    assert (address.topology, list(address.hosts), str(address)) == (RedisTopology(topology), hosts, shown)
    assert address.tls == url.startswith("rediss")
    assert "secret" not in repr(address) + str(RedisStoreSettings(url=url))


def test_user_and_password_may_hold_any_character() -> None:
    address = RedisAddress.parse("redis+sentinel://a%40b:p%2Fq%3A@h/m%20n/1")
    assert (address.username, address.password, address.master, address.database) == ("a@b", "p/q:", "m n", 1)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"url": "http://secret@r"}, "'http' begins no address of a Redis; write redis://HOST:PORT/DB, "),
        ({"url": "r:6379"}, "begins no address of a Redis"),
        ({"url": "redis://"}, "is no HOST:PORT"),
        ({"url": "redis://r:99999"}, "is no HOST:PORT"),
        ({"url": "redis://a,b"}, r"several servers are redis\+cluster"),
        ({"url": "redis://a/x"}, "'/x' names no database here"),
        ({"url": "redis+cluster://a/1"}, "'/1' names no database here"),
        ({"url": "redis+sentinel://a"}, r"write redis\+sentinel://HOST:PORT/MASTER"),
        ({"url": "redis://a?db=1"}, "has neither"),
        ({"url": "redis://:x@a", "password_env": "P"}, "the password is given twice"),
        ({"password_env": "P", "password_file": "p"}, "the password is given twice"),
        ({"url": "redis://u@a", "username": "v"}, "the user is given twice"),
        ({"tls": {"ca_file": "ca"}}, "tls is for rediss"),
        ({"url": "rediss://a", "tls": {"cert_file": "c"}}, "cert_file and key_file belong together"),
        ({"key_prefix": "a*"}, "write letters, digits"),
        ({"timeout_seconds": 0}, "greater than 0"),
        ({"on_backend_failure": "hit"}, "'unavailable' or 'miss'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_write(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        RedisStoreSettings.model_validate(said)


@pytest.mark.parametrize(
    "url",
    [
        ":hunter@r:6379",
        "default:hunter@r",
        "hunter@http://r",
        "redis://:hunter",
        "redis://u:hunter/2@r",
        "redis://u:1/hunter@r",
        "redis://u:1#hunter@r",
        "redis://u:hunter\u2100@r",
        "redis://u:[hunter@r",
        "unix://:hunter@/run/redis.sock",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="write ") as error:
        RedisAddress.parse(url)
    assert "hunter" not in str(error.value)
