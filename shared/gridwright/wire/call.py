"""What a servicer may know of the RPC that it answers, whatever transport carried it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from gridwright.auth.identity import ANONYMOUS, Identity


class CallMetadata:
    """The headers of a call: text under ordinary keys, bytes under keys that end in ``-bin``."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Sequence[tuple[str, str | bytes]] = ()) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)

    def text(self, key: str) -> str | None:
        """Return the first value under *key*, an ordinary key."""
        return next((value for name, value in self._pairs if name == key and isinstance(value, str)), None)

    def binary(self, key: str) -> bytes | None:
        """Return the first value under *key*, which ends in ``-bin``."""
        return next((value for name, value in self._pairs if name == key and isinstance(value, bytes)), None)


class Call:
    """One RPC, seen from the servicer that answers it.

    A call that the client gives up cancels the task that answers it, as asyncio does, so
    there is nothing to poll: clean up in ``finally`` and let ``CancelledError`` pass.
    """

    __slots__ = ("_trailers", "deadline", "identity", "metadata", "peer")

    def __init__(
        self,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        identity: Identity = ANONYMOUS,
        deadline: float | None = None,
        peer: str = "in-process",
    ) -> None:
        self.metadata = CallMetadata(metadata)
        #: Who is calling, with the roles they hold.
        self.identity = identity
        #: When the caller stops listening, as ``time.monotonic()`` counts; None: never.
        self.deadline = deadline
        #: Where the caller is, as gRPC prints it ("ipv4:127.0.0.1:4711", "unix:").
        self.peer = peer
        self._trailers: list[tuple[str, str | bytes]] = []

    def remaining_seconds(self) -> float | None:
        """Return how long the caller will still listen; None: for ever."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def add_trailer(self, key: str, value: str | bytes) -> None:
        """Send *key* with the status, after the response; bytes need a key that ends in ``-bin``."""
        self._trailers.append((key, value))

    @property
    def trailers(self) -> Sequence[tuple[str, str | bytes]]:
        """The trailing metadata set so far."""
        return tuple(self._trailers)
