"""What the user can say to `gridwright up`, and whether it can be done."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from gridwright.errors import ConfigurationError
from gridwright.settings import Address

_WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options, as given or by default."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 50051
    console_port: int = 8080
    #: None: as many as there are cores.
    slots: int | None = None
    instance: str = "main"
    #: Let other machines in, all of them and with every right.
    insecure: bool = False

    @property
    def grpc_address(self) -> Address:
        """Where clients of the grid connect."""
        return _address(self.host, self.port)

    @property
    def console_address(self) -> Address:
        """Where the console's pages are."""
        return _address(self.host, self.console_port)

    @property
    def reachable_host(self) -> str:
        """What to write into a client's flags: a wildcard is no place to connect to."""
        host = socket.gethostname() if self.host in _WILDCARDS else self.host
        return f"[{host}]" if ":" in host else host

    @property
    def probe_address(self) -> Address:
        """Where this process itself reaches the grid."""
        return _address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)


def check_options(options: UpOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigurationError: saying which, and what to do.
    """
    if options.port == options.console_port:
        raise ConfigurationError(
            f"--port and --console-port are both {options.port}: choose another port for one of them"
        )
    if not options.grpc_address.is_local and not options.insecure:
        raise ConfigurationError(
            f"--host {options.host} would let every machine that reaches it run commands here, without authentication:"
            " add --insecure if that is what you want, in a private network"
        )


def check_ports(options: UpOptions) -> None:
    """Refuse ports that cannot be had, before anything is started.

    Raises:
        ConfigurationError: naming the port and the option that chooses another.
    """
    for option, address in (("--port", options.grpc_address), ("--console-port", options.console_address)):
        host, port = address.host_and_port
        try:
            _try_to_bind(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(f"port {port} of {host} is in use: choose another with {option}") from None
            if error.errno == errno.EACCES:
                raise ConfigurationError(
                    f"port {port} needs rights that you have not: choose one above 1023 with {option}"
                ) from None
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise ConfigurationError(f"cannot listen on {host}: {reason}; choose another address with --host") from None


def _try_to_bind(host: str, port: int) -> None:
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, kind) as probe:
        # Connections of a grid that has just ended are no obstacle; a listener is one all the same.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _address(host: str, port: int) -> Address:
    return Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
