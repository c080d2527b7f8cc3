"""From the headers and the peer of a call to the identity of its caller."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from gridwright.auth.identity import ANONYMOUS, NOBODY, Identity

_LOCAL = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]")


class Authenticator(Protocol):
    """Says who is calling."""

    @abstractmethod
    def authenticate(self, metadata: Sequence[tuple[str, str | bytes]], peer: str) -> Identity:
        """Return the caller.

        Raises:
            Unauthenticated: credentials were sent, or are needed, and they are not good.
        """
        ...


class LoopbackAuthenticator(Authenticator):
    """Trusts this machine: a caller on loopback or on a Unix socket has every role except admin.

    Callers from elsewhere have none, unless *trust_network* says that the network itself
    is the boundary (a private network of containers).
    """

    def __init__(self, *, trust_network: bool = False) -> None:
        self._trust_network = trust_network

    def authenticate(self, metadata: Sequence[tuple[str, str | bytes]], peer: str) -> Identity:
        # grpc-core prints the peer of a Unix socket as "unix:" with or without a path.
        return ANONYMOUS if self._trust_network or peer.startswith(_LOCAL) else NOBODY
