"""Which blobs a bounded store holds, in the order of their last use, and which must go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

#: What a thing is held under: a digest, or more than that where instances are apart.
Key = TypeVar("Key", bound=Hashable)


class EvictionPolicy(NamedTuple):
    """When blobs go; the same four words everywhere, and 0 means that there is no such bound."""

    #: The most that the blobs may take together.
    max_bytes: int = 0
    #: A blob goes when it was not used for so long.
    max_seconds: float = 0
    #: The most blobs.
    max_count: int = 0
    #: Once ``max_bytes`` is passed, so much more goes, that the next uploads find room without evicting.
    evict_bytes: int = 0


class EvictionOrder(Generic[Key]):
    """The blobs of a store in the order of their last use, and the decision which of them go.

    It does no I/O and asks no clock: a cache in memory, a directory of files and a list of
    what exists elsewhere decide alike. What is returned by ``evict`` is held no longer.

    ``touch``, ``absent`` and ``in`` may be called while another thread changes the order.
    """

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        #: For each blob, the least recently used first, when it was last used and what it takes.
        self._held: OrderedDict[Key, list[float]] = OrderedDict()
        self._used_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    @property
    def used_bytes(self) -> int:
        """What the blobs take together."""
        return self._used_bytes

    def touch(self, key: Key, now: float) -> bool:
        """Count the blob as used *now*; return whether it is held."""
        entry = self._held.get(key)
        if entry is None:
            return False
        try:
            self._held.move_to_end(key)
        except KeyError:  # evicted by another thread since the line above
            return False
        entry[0] = now
        return True

    def absent(self, keys: Iterable[Key], now: float) -> set[Key]:
        """Return those of *keys* that are not held; the others count as used *now*."""
        touch = self.touch
        return {key for key in keys if not touch(key, now)}

    def add(self, key: Key, cost_bytes: int, now: float) -> None:
        """Hold the blob, used *now*; if it is held, it takes *cost_bytes* from now on."""
        self.discard(key)
        self._held[key] = [now, cost_bytes]
        self._used_bytes += cost_bytes

    def discard(self, key: Key) -> bool:
        """Hold the blob no longer; return whether it was held."""
        entry = self._held.pop(key, None)
        if entry is None:
            return False
        self._used_bytes -= int(entry[1])
        return True

    def evict(self, now: float, *, coming_bytes: int = 0, coming_count: int = 0) -> list[Key]:
        """Drop what has expired, and the least recently used beyond what leaves room for what is *coming*."""
        policy, held = self.policy, self._held
        victims: list[Key] = []
        if policy.max_seconds:
            expired_at = now - policy.max_seconds
            while held and next(iter(held.values()))[0] < expired_at:
                victims.append(self._pop())
        if policy.max_bytes and self._used_bytes + coming_bytes > policy.max_bytes:
            low_water_bytes = policy.max_bytes - policy.evict_bytes - coming_bytes
            while held and self._used_bytes > low_water_bytes:
                victims.append(self._pop())
        if policy.max_count:
            while held and len(held) + coming_count > policy.max_count:
                victims.append(self._pop())
        return victims

    def _pop(self) -> Key:
        key, entry = self._held.popitem(last=False)
        self._used_bytes -= int(entry[1])
        return key
