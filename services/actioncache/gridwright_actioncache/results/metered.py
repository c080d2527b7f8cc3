"""The store that tells how it is used."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from gridwright.digest import Digest
from gridwright.errors import GridwrightError
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Verdict


class ResultRecorder(Protocol):
    """Hears what a :class:`MeteredResultStore` does; what becomes of it (metrics, a test's list) is its own affair."""

    @abstractmethod
    def looked_up(self, hits: int, misses: int, hit_bytes: int) -> None:
        """Results were asked for."""
        ...

    @abstractmethod
    def kept(self, size_bytes: int) -> None:
        """A result was kept."""
        ...

    @abstractmethod
    def failed(self, operation: str, error: GridwrightError) -> None:
        """``get_many``, ``put`` or ``remove`` raised *error*."""
        ...

    @abstractmethod
    def took(self, operation: str, seconds: float) -> None:
        """``get_many``, ``put`` or ``remove`` ended, well or not, after *seconds*."""
        ...


class MeteredResultStore(ResultStore):
    """Tells a recorder of each call, so that no other store has a line about metrics.

    Put it above the store whose hit rate is of interest: twice, above and below a
    ``completeness_checking``, it shows how many results are lost to outputs that went.

    Args:
        timer: seconds since some moment.
    """

    def __init__(
        self, inner: ResultStore, recorder: ResultRecorder, *, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._inner = inner
        self._recorder = recorder
        self._timer = timer

    def __repr__(self) -> str:
        return f"<MeteredResultStore {self._inner!r}>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        with self._measured("get_many"):
            found = await self._inner.get_many(instance, action_digests)
        self._recorder.looked_up(len(found), len(set(action_digests)) - len(found), sum(map(len, found.values())))
        return found

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        with self._measured("put"):
            await self._inner.put(instance, action_digest, result)
        self._recorder.kept(len(result))

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        with self._measured("remove"):
            await self._inner.remove(instance, action_digests)

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        return self._inner.walk(instance)

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        return await self._inner.explain(instance, action_digest)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        begun = self._timer()
        try:
            yield
        except GridwrightError as error:
            self._recorder.failed(operation, error)
            raise
        finally:
            self._recorder.took(operation, self._timer() - begun)
