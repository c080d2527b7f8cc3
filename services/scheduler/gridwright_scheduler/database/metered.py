"""The database that says how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.metrics import DatabaseMetrics

T = TypeVar("T")


class MeteredDatabase(Database):
    """Measures each transaction: when the scheduler is slow, this tells whether its database is."""

    def __init__(self, inner: Database, metrics: DatabaseMetrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self.sole = inner.sole

    async def write(self, work: Callable[[Connection], T]) -> T:
        begun = time.perf_counter()
        try:
            result = await self._inner.write(work)
        except SQLAlchemyError:
            self._metrics.failed()
            raise
        self._metrics.written(time.perf_counter() - begun)
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        begun = time.perf_counter()
        try:
            result = await self._inner.read(work)
        except SQLAlchemyError:
            self._metrics.failed()
            raise
        self._metrics.read(time.perf_counter() - begun)
        return result

    def notify(self, connection: Connection, topics: Collection[Topic]) -> None:
        self._inner.notify(connection, topics)

    async def listen(self, heard: Callable[[Topic], None]) -> None:
        await self._inner.listen(heard)
