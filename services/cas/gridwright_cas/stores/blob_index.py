"""Which blobs a bounded store holds, which were used longest ago, and which must go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from gridwright.digest import Digest
from gridwright.errors import ResourceExhausted

#: What the smallest file takes on disk; sizes are counted in whole blocks, so that ``du`` agrees with us.
BLOCK_BYTES = 4096
#: A use is written down only when the one written before is older than this.
TOUCH_SECONDS = 600.0


def cost_of(size_bytes: int) -> int:
    """Return how much disk a file of *size_bytes* takes."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


class BlobIndex:
    """The blobs of a store in the order of their last use, and the decision which of them make room.

    It does no I/O and asks no clock. Blobs come and go under the lock of whoever owns the
    files (``BlobDirectory``), so that index and disk always say the same; only ``touch``
    and ``in`` may be called without it, from the event loop, which must not wait for a disk.

    Args:
        max_bytes: the most that blobs and reservations may cost together.
        used_at: for each blob that is there already, when it was last used (Unix seconds), longest ago first.
    """

    def __init__(self, max_bytes: int, used_at: Mapping[Digest, float]) -> None:
        self.max_bytes = max_bytes
        #: When each blob's last use was written down; the least recently used is first.
        self._written: OrderedDict[Digest, float] = OrderedDict(used_at)
        #: Uses that should be written down.
        self._touched: dict[Digest, float] = {}
        self._used_bytes = sum(cost_of(digest.size_bytes) for digest in used_at)
        self._reserved_bytes = 0

    def __len__(self) -> int:
        return len(self._written)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._written

    @property
    def used_bytes(self) -> int:
        """What the blobs and the reservations cost together."""
        return self._used_bytes + self._reserved_bytes

    @property
    def has_touches(self) -> bool:
        """Whether there are uses to write down."""
        return bool(self._touched)

    def touch(self, digest: Digest, now: float) -> bool:
        """Count the blob as used *now*; return whether it is there."""
        written = self._written.get(digest)
        if written is None:
            return False
        try:
            self._written.move_to_end(digest)
        except KeyError:  # evicted by another thread since the line above
            return False
        if now - written > TOUCH_SECONDS:
            self._touched[digest] = now
        return True

    def take_touches(self) -> Mapping[Digest, float]:
        """Return when blobs were used, for the caller to write down, and count it as written."""
        touched, self._touched = self._touched, {}
        for digest, now in list(touched.items()):
            if digest in self._written:
                self._written[digest] = now
        return touched

    def add(self, digest: Digest, now: float) -> None:
        """Hold the blob; room was reserved for it."""
        if digest not in self._written:
            self._used_bytes += cost_of(digest.size_bytes)
        self._written[digest] = now
        self._written.move_to_end(digest)

    def remove(self, digest: Digest) -> None:
        """Hold the blob no longer; it may not have been held."""
        if self._written.pop(digest, None) is not None:
            self._used_bytes -= cost_of(digest.size_bytes)

    def reserve(self, cost_bytes: int) -> list[Digest]:
        """Set *cost_bytes* aside and return the blobs, held no longer, whose files must go for it.

        Raises:
            ResourceExhausted: uploads in flight hold so much that evicting everything would not be enough.
        """
        if self._reserved_bytes + cost_bytes > self.max_bytes:
            raise ResourceExhausted(
                f"the store's {self.max_bytes} bytes are taken by uploads in flight; try again later",
                retry_after_seconds=1.0,
            )
        self._reserved_bytes += cost_bytes
        return self.overflow()

    def release(self, cost_bytes: int) -> None:
        """Give back what was set aside."""
        self._reserved_bytes -= cost_bytes

    def overflow(self) -> list[Digest]:
        """Drop the least recently used blobs beyond ``max_bytes`` and return them."""
        victims: list[Digest] = []
        while self.used_bytes > self.max_bytes and self._written:
            digest, _ = self._written.popitem(last=False)
            self._used_bytes -= cost_of(digest.size_bytes)
            victims.append(digest)
        return victims
