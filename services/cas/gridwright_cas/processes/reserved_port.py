"""A TCP port that processes of ours share, and nobody else has."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

from gridwright.errors import ConfigurationError
from gridwright.settings import Address

#: Children of a parent that was killed are being killed, which takes the kernel a moment.
_PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.05


@asynccontextmanager
async def reserved_port(listen: Address) -> AsyncIterator[Address]:
    """Hold the port of *listen* while the block runs; yield the address with its number, also where that was 0.

    Within the block, sockets of this user that have SO_REUSEPORT can listen there. Without the reservation one of
    another program that has it too would share the connections, silently.

    Raises:
        ConfigurationError: the port is in use, or the address is none of this machine.
    """
    give_up = time.monotonic() + _PATIENCE_SECONDS
    with ExitStack() as stack:
        reserved: Address | None = None
        while reserved is None:
            try:
                reserved = _reserve(listen, stack)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= give_up:
                    raise ConfigurationError(
                        f"cannot listen on {listen}: {error.strerror}; choose another address for cas.listen"
                    ) from None
                await asyncio.sleep(_POLL_SECONDS)  # nobody announces a port that comes free
        yield reserved


def _reserve(listen: Address, stack: ExitStack) -> Address:
    host, port = listen.host_and_port
    refused: OSError | None = None
    bound: list[socket.socket] = []
    with ExitStack() as undo:
        for family, address in _resolved(host):
            reservation = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # Connections that linger are in nobody's way, but whoever listens is, with SO_REUSEPORT or without.
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                reservation.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise
                refused = error  # a name may stand for addresses that this machine does not have, as ::1
                continue
            # From here on the other way round: those who share it get in, others do not.
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = reservation.getsockname()[1]
            bound.append(reservation)
        if not bound:
            raise refused or OSError(errno.EADDRNOTAVAIL, "no such host")
        stack.push(undo.pop_all())
    return Address.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _resolved(host: str) -> Sequence[tuple[int, str]]:
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
