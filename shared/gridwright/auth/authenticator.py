"""From the headers and the peer of a call to the identity of its caller."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from gridwright.auth.identity import ANONYMOUS, LOCAL_OPERATOR, NOBODY, SCHEDULER, Identity

#: With it a service of the grid says which one it is. The gateway drops it from whatever passes through.
SERVICE_HEADER = "x-gridwright-service"
_SCHEDULER_HEADER = (SERVICE_HEADER, "scheduler")

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

    It is also believed when it says that it is the scheduler, which no caller of the gateway
    can say. Callers from elsewhere have no role, unless *trust_network* says that the network
    itself is the boundary (a private network of containers).

    Args:
        local_operators: whether all who are trusted have the role admin as well.
    """

    def __init__(self, *, trust_network: bool = False, local_operators: bool = False) -> None:
        self._trust_network = trust_network
        self._client = LOCAL_OPERATOR if local_operators else ANONYMOUS

    def authenticate(self, metadata: Sequence[tuple[str, str | bytes]], peer: str) -> Identity:
        # grpc-core prints the peer of a Unix socket as "unix:" with or without a path.
        if not (self._trust_network or peer.startswith(_LOCAL)):
            return NOBODY
        return SCHEDULER if _SCHEDULER_HEADER in metadata else self._client
