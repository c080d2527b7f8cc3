"""One after the other, for each result apart."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from gridwright.digest import Digest


class KeyLocks:
    """A lock for each result of each instance, which is there while somebody holds or awaits it.

    What a decorator does in two steps is one to those who use the same result: two writers
    leave two stores with the same last word.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, Digest], asyncio.Lock] = WeakValueDictionary()

    def of(self, instance: str, action_digest: Digest) -> asyncio.Lock:
        """Return the lock of this result; the caller keeps a reference as long as it matters."""
        key = (instance, action_digest)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock
