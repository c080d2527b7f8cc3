"""What runs transactions, whichever database it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from gridwright.errors import Unavailable

T = TypeVar("T")


class Database(Protocol):
    """Runs transactions.

    What is to be done in one is a plain function of a connection. It runs in a thread beside
    the event loop (SQLite), or on the loop and is interrupted at each statement (PostgreSQL);
    docs/decisions/0004 and 0007 say why.
    """

    @abstractmethod
    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run *work* in a transaction that is durable on return; one at a time.

        *work* touches nothing that the event loop changes meanwhile, and may be called again
        in another transaction when the first one came to nothing.

        Raises:
            OperationalError: the database does not answer, or no longer did at the commit: then nobody knows whether
                it is durable, and whoever is told that it is not may find it done.
            SQLAlchemyError: the transaction came to nothing.
        """

    @abstractmethod
    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run *work*, which only reads, without waiting for writers.

        Raises:
            OperationalError: the database does not answer.
            SQLAlchemyError: it came to nothing.
        """


def no_answer() -> Unavailable:
    """Return what callers hear when a transaction came to nothing."""
    return Unavailable("the scheduler's database does not answer; try again")
