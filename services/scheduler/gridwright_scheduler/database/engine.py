"""What runs transactions, whichever database it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gridwright.errors import Unavailable
from gridwright_scheduler.database.topics import Topic

T = TypeVar("T")


class Database(Protocol):
    """Runs transactions.

    What is to be done in one is a plain function of a connection. It runs in a thread beside
    the event loop (SQLite), or on the loop and is interrupted at each statement (PostgreSQL);
    docs/decisions/0004 and 0007 say why.
    """

    #: Whether no other process uses the tables; nobody is to be told of anything then.
    sole: bool

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

    @abstractmethod
    def notify(self, connection: Connection, topics: Collection[Topic]) -> None:
        """Tell the other users of the tables, as the transaction of *connection* commits, to look at *topics*."""

    @abstractmethod
    async def listen(self, heard: Callable[[Topic], None]) -> None:
        """Call *heard* with each topic that another user of the tables notifies of, until cancelled.

        It is called with every topic whenever a notice may have been missed.
        """


def no_answer() -> Unavailable:
    """Return what callers hear when a transaction came to nothing."""
    return Unavailable("the scheduler's database does not answer; try again")


async def reading(database: Database, work: Callable[[Connection], T]) -> T:
    """Return what *work* reads.

    Raises:
        Unavailable: the database is.
    """
    try:
        return await database.read(work)
    except SQLAlchemyError as error:
        raise no_answer() from error
