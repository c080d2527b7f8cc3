"""Operations that were answered at once, and so never reached the tables."""

from __future__ import annotations

from collections import OrderedDict

from gridwright.clock import Clock
from gridwright_scheduler.database.records import OperationRecord
from gridwright_scheduler.queue.names import OperationName


class AnsweredOperations:
    """Remembers, for a while, operations that were done before they began: hits of the action cache, above all.

    A hit costs no write this way. It lives in this process only: a client that asks for one
    after a restart, or elsewhere, hears NOT_FOUND, executes again, and hits the cache again.

    Args:
        max_bytes: what the remembered responses may take together.
    """

    def __init__(self, clock: Clock, *, retention_seconds: float, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._clock = clock
        self._retention_seconds = retention_seconds
        self._max_bytes = max_bytes
        self._records: OrderedDict[OperationName, OperationRecord] = OrderedDict()
        self._used_bytes = 0

    def keep(self, record: OperationRecord) -> None:
        """Remember *record*, and forget the oldest for it if need be."""
        self._records[record.name] = record
        self._used_bytes += _cost(record)
        oldest_allowed = self._clock.now() - self._retention_seconds
        while self._records:
            oldest = next(iter(self._records.values()))
            if self._used_bytes <= self._max_bytes and oldest.created_at >= oldest_allowed:
                break
            self._records.popitem(last=False)
            self._used_bytes -= _cost(oldest)

    def find(self, name: OperationName) -> OperationRecord | None:
        """Return the operation *name*, if it is remembered."""
        record = self._records.get(name)
        if record is None or record.created_at < self._clock.now() - self._retention_seconds:
            return None
        return record

    def forget(self, name: OperationName) -> bool:
        """Forget the operation *name*; return whether it was remembered."""
        record = self._records.pop(name, None)
        if record is not None:
            self._used_bytes -= _cost(record)
        return record is not None


def _cost(record: OperationRecord) -> int:
    # The rest is what a record takes beside its response: names, digest, the objects themselves.
    return len(record.snapshot.response) + len(record.request_metadata) + 1024
