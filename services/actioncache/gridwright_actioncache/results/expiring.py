"""The store whose results are good for a time only."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from google.protobuf.message import DecodeError

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import ConfigurationError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_actioncache.results.store import ResultStore

#: So many hexadecimal digits of an action's hash decide about its share of the jitter.
_JITTER_DIGITS = 8


class ExpiringResultStore(ResultStore):
    """Finds no result that is older than *max_seconds*, or from before *minimum_timestamp*.

    Results that are used every day never leave a cache by themselves, and with them what a
    compiler of last year, or a broken worker of last night, has made of an action. How old a
    result is says its own metadata: when the worker had completed it. One that does not say
    is as old as can be to *minimum_timestamp*, which is set when results cannot be trusted,
    and does not age.

    What has expired stays in *inner* until it is built anew, or evicted.

    Args:
        max_seconds: 0: results do not age.
        jitter_seconds: results expire up to so much earlier, each by a share of it that its
            action decides, so that not all of one night's are built again in one morning.
        minimum_timestamp: Unix seconds.
    """

    def __init__(
        self,
        inner: ResultStore,
        clock: Clock,
        *,
        max_seconds: float = 0,
        jitter_seconds: float = 0,
        minimum_timestamp: float = 0,
    ) -> None:
        if jitter_seconds and jitter_seconds >= max_seconds:
            raise ConfigurationError("the jitter of expiring results must be less than the time they are good for")
        self._inner = inner
        self._clock = clock
        self._max_seconds = max_seconds
        self._jitter_seconds = jitter_seconds
        self._minimum_timestamp = minimum_timestamp
        #: Results that were not found because of their age.
        self.expired = 0

    def __repr__(self) -> str:
        return (
            f"<ExpiringResultStore after {self._max_seconds:g} s, since {self._minimum_timestamp:g}: {self._inner!r}>"
        )

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        found = await self._inner.get_many(instance, action_digests)
        now = self._clock.now()
        good = {digest: result for digest, result in found.items() if self._is_good(digest, result, now)}
        self.expired += len(found) - len(good)
        return good

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        await self._inner.put(instance, action_digest, result)

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        await self._inner.remove(instance, action_digests)

    def _is_good(self, digest: Digest, result: bytes, now: float) -> bool:
        completed_at = _completed_at(result)
        if completed_at is None:
            return not self._minimum_timestamp
        if completed_at < self._minimum_timestamp:
            return False
        share = int(digest.hash[:_JITTER_DIGITS], 16) / 16**_JITTER_DIGITS
        return not self._max_seconds or now < completed_at + self._max_seconds - self._jitter_seconds * share


def _completed_at(result: bytes) -> float | None:
    """Return when the worker, or else the action, had completed, in Unix seconds, if the result says so."""
    try:
        metadata = pb.ActionResult.FromString(result).execution_metadata
    except DecodeError:
        return None
    for field in ("worker_completed_timestamp", "execution_completed_timestamp"):
        if metadata.HasField(field):
            timestamp = getattr(metadata, field)
            return float(timestamp.seconds + timestamp.nanos / 1e9)
    return None
