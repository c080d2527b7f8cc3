"""gRPC targets, by which the settings name the services, as addresses that Envoy knows."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gridwright.errors import ConfigurationError

#: The kernel's sockaddr_un holds 108 bytes with the NUL.
_MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class Pipe:
    """A Unix socket; a relative path is found from the working directory of Envoy."""

    path: str


@dataclass(frozen=True, slots=True)
class Host:
    """A TCP address, or a name that stands for one or several."""

    name: str
    port: int

    @property
    def is_address(self) -> bool:
        """Whether the name is an IP address, which needs no look-up."""
        try:
            ipaddress.ip_address(self.name)
        except ValueError:
            return False
        return True


Endpoint = Pipe | Host


def parse_target(target: str, *, key: str) -> tuple[Endpoint, ...]:
    """Return the endpoints that a gRPC *target*, written under *key* in the settings, stands for.

    Understood are ``unix:path``, ``host:port``, ``[ipv6]:port``, ``dns:host:port``,
    ``dns:///host:port``, and, with several addresses after commas, ``ipv4:`` and ``ipv6:``.

    Raises:
        ConfigurationError: it is none of these.
    """
    scheme, colon, rest = target.partition(":")
    match scheme:
        case "unix" if colon:
            return (_pipe(rest.removeprefix("//"), target, key),)
        case "ipv4" | "ipv6" if colon:
            return tuple(_host(one, target, key) for one in rest.split(","))
        case "dns" if rest.startswith("//"):
            _name_server, _, name = rest[2:].partition("/")
            return (_host(name, target, key),)
        case "dns" if colon and not rest.isdecimal():
            return (_host(rest, target, key),)
        case _:
            return (_host(target, target, key),)


def _pipe(path: str, target: str, key: str) -> Pipe:
    if not path or len(path.encode()) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{key}: {target!r}: a Unix socket's path has 1 to {_MAX_SOCKET_PATH_BYTES} bytes; "
            "use a relative or shorter one"
        )
    return Pipe(path)


def _host(text: str, target: str, key: str) -> Host:
    name, _, port = text.rpartition(":")
    bare = name.removeprefix("[").removesuffix("]")
    if not bare or "/" in bare or (":" in bare and bare == name) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(
            f"{key}: {target!r} is not a target that the gateway can reach; write HOST:PORT, unix:PATH or "
            "dns:///NAME:PORT"
        )
    return Host(bare, int(port))


def parse_listener(listen: str, *, key: str) -> Endpoint:
    """Return where Envoy is to *listen*; port 0 is any that is free.

    Raises:
        ConfigurationError: it is a name, which could stand for several addresses.
    """
    if listen.startswith("unix:"):
        return _pipe(listen.removeprefix("unix:"), listen, key)
    name, _, port = listen.rpartition(":")
    host = Host("127.0.0.1" if name == "localhost" else name.strip("[]"), int(port))
    if not host.is_address:
        raise ConfigurationError(f"{key}: {listen!r} is a name; write the IP address to listen on, or 0.0.0.0 for all")
    return host
