"""Which blobs a directory holds, which were used longest ago, and which must go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gridwright.blobs.eviction import EvictionOrder, EvictionPolicy
from gridwright.digest import Digest
from gridwright.errors import ResourceExhausted

#: What the smallest file takes on disk; sizes are counted in whole blocks, so that ``du`` agrees with us.
BLOCK_BYTES = 4096
#: A use is written down only when the one written before is older than this.
TOUCH_SECONDS = 600.0


class HeldBlob(NamedTuple):
    """A blob that is there already."""

    digest: Digest
    stored_bytes: int
    #: When it was last used, in Unix seconds.
    used_at: float


def cost_of(size_bytes: int) -> int:
    """Return how much disk a file of *size_bytes* takes."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


class BlobIndex:
    """The blobs of a directory, and what uploads have reserved.

    It does no I/O and asks no clock. Blobs come and go under the lock of whoever owns the
    files (``BlobDirectory``), so that index and disk always say the same; only ``touch``
    and ``in`` may be called without it, from the event loop, which must not wait for a disk.

    Args:
        policy: how much blobs and reservations may cost together, and when else blobs go.
        held: the blobs that are there already, the one used longest ago first.
    """

    def __init__(self, policy: EvictionPolicy, held: Iterable[HeldBlob] = ()) -> None:
        self.policy = policy
        self._order: EvictionOrder[Digest] = EvictionOrder(policy)
        #: When each blob's last use was written down.
        self._written_at: dict[Digest, float] = {}
        #: Uses that should be written down.
        self._touched: dict[Digest, float] = {}
        #: How many bytes are stored of a blob, where that is not its size.
        self._other_sizes: dict[Digest, int] = {}
        self._reserved_bytes = 0
        for digest, stored_bytes, used_at in held:
            self.add(digest, stored_bytes, used_at)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._order

    @property
    def used_bytes(self) -> int:
        """What the blobs and the reservations cost together."""
        return self._order.used_bytes + self._reserved_bytes

    @property
    def has_touches(self) -> bool:
        """Whether there are uses to write down."""
        return bool(self._touched)

    def stored_bytes(self, digest: Digest) -> int:
        """Return how many bytes are stored of the blob; its size, if it is not held."""
        return self._other_sizes.get(digest, digest.size_bytes)

    def touch(self, digest: Digest, now: float) -> bool:
        """Count the blob as used *now*; return whether it is there."""
        if not self._order.touch(digest, now):
            return False
        if now - self._written_at.get(digest, now) > TOUCH_SECONDS:
            self._touched[digest] = now
        return True

    def take_touches(self) -> Mapping[Digest, float]:
        """Return when blobs were used, for the caller to write down, and count it as written."""
        touched, self._touched = self._touched, {}
        for digest, now in list(touched.items()):
            if digest in self._written_at:
                self._written_at[digest] = now
        return touched

    def add(self, digest: Digest, stored_bytes: int, now: float) -> None:
        """Hold the blob; room was reserved for it."""
        self._order.add(digest, cost_of(stored_bytes), now)
        self._written_at[digest] = now
        if stored_bytes == digest.size_bytes:
            self._other_sizes.pop(digest, None)
        else:
            self._other_sizes[digest] = stored_bytes

    def remove(self, digest: Digest) -> bool:
        """Hold the blob no longer; return whether it was held."""
        self._written_at.pop(digest, None)
        self._other_sizes.pop(digest, None)
        return self._order.discard(digest)

    def reserve(self, cost_bytes: int, now: float) -> Mapping[Digest, int]:
        """Set *cost_bytes* aside, and return what ``evict`` does.

        Raises:
            ResourceExhausted: uploads in flight hold so much that evicting everything would not be enough.
        """
        if 0 < self.policy.max_bytes < self._reserved_bytes + cost_bytes:
            raise ResourceExhausted(
                f"the store's {self.policy.max_bytes} bytes are taken by uploads in flight; try again later",
                retry_after_seconds=1.0,
            )
        self._reserved_bytes += cost_bytes
        return self.evict(now)

    def release(self, cost_bytes: int) -> None:
        """Give back what was set aside."""
        self._reserved_bytes -= cost_bytes

    def evict(self, now: float) -> Mapping[Digest, int]:
        """Drop what has expired and what is too much; return it, with the bytes stored, for its files to go."""
        victims: dict[Digest, int] = {}
        for digest in self._order.evict(now, coming_bytes=self._reserved_bytes):
            victims[digest] = self._other_sizes.pop(digest, digest.size_bytes)
            del self._written_at[digest]
        return victims
