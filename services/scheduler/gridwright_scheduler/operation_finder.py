"""Finds operations, wherever they are remembered."""

from __future__ import annotations

from gridwright.errors import OperationNotFound
from gridwright_scheduler.answered import AnsweredOperations
from gridwright_scheduler.database.operations import Operations
from gridwright_scheduler.database.records import OperationRecord
from gridwright_scheduler.interest import Interest
from gridwright_scheduler.queue.names import OperationName
from gridwright_scheduler.queue.states import ActionState


class OperationFinder:
    """Looks into the tables, and among the operations that were answered without them.

    Who asks for an operation is interested in it.
    """

    def __init__(self, operations: Operations, answered: AnsweredOperations, interest: Interest) -> None:
        self._operations = operations
        self._answered = answered
        self._interest = interest

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
        if found.snapshot.state is not ActionState.COMPLETED:
            self._interest.asked(name)
        return found

    def forget_answered(self, name: OperationName) -> bool:
        """Forget the operation *name* if it was answered without the tables; return whether it was."""
        return self._answered.forget(name)
