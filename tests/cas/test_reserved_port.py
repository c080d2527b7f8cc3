"""A port that processes of ours share, and nobody else has."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gridwright.errors import ConfigurationError
from gridwright.settings import Address
from gridwright_cas.processes import reserved_port as module
from gridwright_cas.processes.reserved_port import reserved_port


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)


@contextmanager
def listener(port: int, *, shares: bool) -> Iterator[int]:
    """Listen as another program does; yield the port."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        one.bind(("127.0.0.1", port))
        one.listen()
        yield one.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
async def test_port_0_becomes_a_port_on_which_several_can_listen(host: str) -> None:
    async with reserved_port(Address.parse(f"{host}:0")) as address:
        name, port = address.host_and_port
        assert name == host
        assert port > 0
        with listener(port, shares=True), listener(port, shares=True):
            pass


async def test_nobody_gets_a_reserved_port_who_does_not_share() -> None:
    async with reserved_port(Address("127.0.0.1:0")) as address:
        with pytest.raises(OSError, match="in use"), listener(address.host_and_port[1], shares=False):
            pass


async def test_a_port_that_is_reserved_cannot_be_reserved_again() -> None:
    async with reserved_port(Address("127.0.0.1:0")) as address:
        with pytest.raises(ConfigurationError, match="in use"):
            async with reserved_port(address):
                pass
    async with reserved_port(address) as again:
        assert again == address


@pytest.mark.parametrize("shares", [False, True])
async def test_a_port_that_somebody_else_has_is_refused_even_if_he_would_share_it(shares: bool) -> None:
    with listener(0, shares=shares) as port, pytest.raises(ConfigurationError) as refused:
        async with reserved_port(Address(f"127.0.0.1:{port}")):
            pass
    assert str(refused.value) == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another address for cas.listen"
    )


async def test_an_address_that_is_none_of_this_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        async with reserved_port(Address("192.0.2.1:0")):
            pass
