"""Uses that a cache answered, on their way to the store below it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Set

from gridwright.clock import Clock
from gridwright.digest import Digest

#: The store below hears of a blob's use at most so often; it keeps blobs for hours.
TOUCH_SECONDS = 600.0
#: Uses are passed on when so many wait ...
_BATCH = 1_000
#: ... or when the first of them has waited so long.
_WAIT_SECONDS = 60.0
#: Of so many blobs it is known when their use was passed on; of others it is passed on again.
_MAX_KNOWN = 100_000


class Touches:
    """Gathers the uses of blobs, and hands them out in bulk when it is time to pass them on.

    What a cache answers, the store below does not see: without this the hottest blobs would
    look cold there, and be the first to go.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: When each blob's use was noted to be passed on, the oldest first.
        self._noted_at: OrderedDict[Digest, float] = OrderedDict()
        self._waiting: set[Digest] = set()
        self._waiting_since = 0.0

    def note(self, digests: Iterable[Digest]) -> None:
        """Count *digests* as used now."""
        now = self._clock.monotonic()
        noted_at = self._noted_at
        for digest in digests:
            before = noted_at.get(digest)
            if before is not None and now - before <= TOUCH_SECONDS:
                continue
            noted_at[digest] = now
            noted_at.move_to_end(digest)
            if not self._waiting:
                self._waiting_since = now
            self._waiting.add(digest)
        while len(noted_at) > _MAX_KNOWN:
            noted_at.popitem(last=False)

    def take(self) -> Set[Digest]:
        """Return the uses to pass on now, or none if it is not time yet."""
        waiting = self._waiting
        if len(waiting) < _BATCH and self._clock.monotonic() - self._waiting_since < _WAIT_SECONDS:
            return frozenset()
        self._waiting = set()
        return waiting
