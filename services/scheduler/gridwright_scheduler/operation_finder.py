"""Finds operations, wherever they are remembered."""

from __future__ import annotations

from gridwright.errors import OperationNotFound
from gridwright_scheduler.answered import AnsweredOperations
from gridwright_scheduler.database.operations import Operations
from gridwright_scheduler.database.records import OperationRecord
from gridwright_scheduler.queue.names import OperationName


class OperationFinder:
    """Looks into the tables, and among the operations that were answered without them."""

    def __init__(self, operations: Operations, answered: AnsweredOperations) -> None:
        self._operations = operations
        self._answered = answered

    async def find(self, name: OperationName) -> OperationRecord:
        """Return the operation *name*.

        Raises:
            OperationNotFound: there is none, or none any more (checklist WEX-02, OPS-03).
            Unavailable: the database is.
        """
        if record := self._answered.find(name):
            return record
        found = await self._operations.find(name)
        if found is None:
            raise OperationNotFound(name)
        return found

    def forget_answered(self, name: OperationName) -> bool:
        """Forget the operation *name* if it was answered without the tables; return whether it was."""
        return self._answered.forget(name)
