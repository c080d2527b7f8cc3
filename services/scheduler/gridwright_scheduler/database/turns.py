"""Turns: whatever is to be written at the same time is written in one transaction."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gridwright.errors import GridwrightError
from gridwright_scheduler.database.engine import Database, no_answer
from gridwright_scheduler.database.replicas import Replica
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turn_locks import Touched, lock_first

log = structlog.get_logger(__name__)

C = TypeVar("C")
R = TypeVar("R")

#: Bounds the length of a transaction, and so how long the next one waits.
_MAX_COMMANDS_PER_TURN = 500


class Batch(Protocol):
    """What one step does in one turn."""

    @abstractmethod
    def apply(self, connection: Connection) -> None:
        """Write; may be called again in another transaction if the first one failed.

        Runs beside the event loop: all that it needs of the loop's was taken with the batch.
        """

    def touched(self) -> Touched:
        """Return the actions that :meth:`apply` may wait for."""
        return Touched()

    def topics(self, so_far: Set[Topic]) -> Set[Topic]:
        """Return what other replicas are to look at when this is durable, *so_far* being what the batches before want.

        It is asked right after :meth:`apply`, and may also take out what this batch has seen to.
        """
        return so_far

    @abstractmethod
    def committed(self) -> None:
        """The transaction is durable: change what is in memory, tell those who wait."""

    @abstractmethod
    def failed(self, error: GridwrightError) -> None:
        """The transaction came to nothing, for good."""

    @abstractmethod
    def parts(self) -> Sequence[Batch]:
        """Return the batch as single commands, to be tried one by one when it failed as a whole."""


class Step(Protocol):
    """One kind of work that turns have."""

    @abstractmethod
    def take(self) -> Batch | None:
        """Return what is to be done in the turn that begins now."""


class Turns:
    """Runs steps in their order, in one transaction per turn, whenever one of them asks for it.

    While a turn runs, work for the next one gathers: the busier the scheduler, the larger
    the transactions, and an idle one answers at once. There is one writer per process,
    which is what SQLite wants, too.

    Args:
        replica: who takes the turns; None: somebody who has the database to himself.
    """

    def __init__(self, database: Database, replica: Replica | None = None) -> None:
        self._database = database
        self.replica = replica or Replica()
        self._steps: list[Step] = []
        self._wanted = asyncio.Event()

    def add(self, step: Step) -> None:
        """Let *step* have its part in every turn, after those added before it."""
        self._steps.append(step)

    def want(self) -> None:
        """Have a turn soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            await self._wanted.wait()
            # Let all that is ready now have its say first.
            await asyncio.sleep(0)
            self._wanted.clear()
            await self._turn([batch for step in self._steps if (batch := step.take()) is not None])

    async def _turn(self, batches: Sequence[Batch]) -> None:
        try:
            await self._transaction(batches)
        except OperationalError as error:
            # The database itself: each command alone would wait, and fail, for the same reason.
            log.error("database_failed", error=str(error))
            for batch in batches:
                batch.failed(no_answer())
        except SQLAlchemyError as error:
            log.warning("turn_failed", error=str(error), exc_info=error)
            for batch in batches:
                for part in batch.parts():
                    await self._turn_alone(part)

    async def _turn_alone(self, part: Batch) -> None:
        try:
            await self._transaction([part])
        except SQLAlchemyError as error:
            log.error("command_failed", error=str(error), exc_info=error)
            part.failed(no_answer())

    async def _transaction(self, batches: Sequence[Batch]) -> None:
        def apply(connection: Connection) -> None:
            topics: Set[Topic] = frozenset()
            if not self.replica.alone:
                lock_first(connection, [batch.touched() for batch in batches])
            for batch in batches:
                batch.apply(connection)
                topics = batch.topics(topics)
            if topics and not self.replica.alone:
                self._database.notify(connection, topics)

        await self._database.write(apply)
        for batch in batches:
            batch.committed()


class Commands(Step, Generic[C, R]):
    """Commands of one kind, from wherever they come, applied together.

    Args:
        turns: when they are applied.
        apply: carries commands out, in order, and returns what became of each; runs beside the event loop.
        taken: hears of each command when the turn that it is part of begins.
        committed: hears of each command and its result when they are durable, before
            whoever sent it, and also if that one has gone away.
        topics: says from the results, after *apply* and beside the event loop, what other replicas are to look at.
        touched: says which actions commands are about.
    """

    def __init__(
        self,
        turns: Turns,
        apply: Callable[[Connection, Sequence[C]], Sequence[R | GridwrightError]],
        *,
        taken: Callable[[C], None] | None = None,
        committed: Callable[[C, R], None] | None = None,
        topics: Callable[[Sequence[R | GridwrightError]], Collection[Topic]] | None = None,
        touched: Callable[[Sequence[C]], Touched] | None = None,
    ) -> None:
        self._turns = turns
        self._work = _Work(apply, committed, topics, touched)
        self._taken = taken
        self._waiting: list[tuple[C, asyncio.Future[R]]] = []
        turns.add(self)

    def send(self, command: C, *, within_seconds: float = 0.0) -> asyncio.Future[R]:
        """Have *command* carried out in the next turn, whether or not anybody waits for its result.

        Nothing but commands that may wait for *within_seconds* makes a turn begin only then.

        To wait for it as well, await the future under ``asyncio.shield``. It fails with
        Unavailable when the database does, or with the error that the command ends in.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        self._waiting.append((command, future))
        if within_seconds:
            future.get_loop().call_later(within_seconds, self._turns.want)
        else:
            self._turns.want()
        return future

    async def __call__(self, command: C) -> R:
        """Have *command* carried out, and return its result; see :meth:`send`."""
        return await asyncio.shield(self.send(command))

    def take(self) -> Batch | None:
        if not self._waiting:
            return None
        taken = self._waiting[:_MAX_COMMANDS_PER_TURN]
        del self._waiting[:_MAX_COMMANDS_PER_TURN]
        if self._waiting:
            self._turns.want()
        if self._taken is not None:
            for command, _ in taken:
                self._taken(command)
        return _CommandBatch(taken, self._work)


@dataclass(frozen=True, slots=True)
class _Work(Generic[C, R]):
    """What is done with commands of one kind."""

    apply: Callable[[Connection, Sequence[C]], Sequence[R | GridwrightError]]
    committed: Callable[[C, R], None] | None
    topics: Callable[[Sequence[R | GridwrightError]], Collection[Topic]] | None
    touched: Callable[[Sequence[C]], Touched] | None


class _CommandBatch(Batch, Generic[C, R]):
    def __init__(self, commands: Sequence[tuple[C, asyncio.Future[R]]], work: _Work[C, R]) -> None:
        self._commands = commands
        self._work = work
        self._results: Sequence[R | GridwrightError] = ()

    def apply(self, connection: Connection) -> None:
        self._results = self._work.apply(connection, [command for command, _ in self._commands])

    def touched(self) -> Touched:
        if self._work.touched is None:
            return Touched()
        return self._work.touched([command for command, _ in self._commands])

    def topics(self, so_far: Set[Topic]) -> Set[Topic]:
        return so_far if self._work.topics is None else so_far | set(self._work.topics(self._results))

    def committed(self) -> None:
        for (command, future), result in zip(self._commands, self._results, strict=True):
            if isinstance(result, GridwrightError):
                future.set_exception(result)
                continue
            if self._work.committed is not None:
                self._work.committed(command, result)
            future.set_result(result)

    def failed(self, error: GridwrightError) -> None:
        for _, future in self._commands:
            future.set_exception(error)

    def parts(self) -> Sequence[Batch]:
        return [_CommandBatch([command], self._work) for command in self._commands]


def _retrieve(future: asyncio.Future[R]) -> None:
    """Look at the outcome, so that asyncio does not complain where nobody else does."""
    if not future.cancelled():
        future.exception()
