"""The store whose results are good for a time only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from google.protobuf.message import DecodeError

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import ConfigurationError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_actioncache.results.provenance import completed_at_of, split_document
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome, Verdict

#: So many hexadecimal digits of an action's hash decide about its share of the jitter.
_JITTER_DIGITS = 8


class ExpiringResultStore(ResultStore):
    """Finds no result that is older than *max_seconds*, or from before *minimum_timestamp*.

    Results that are used every day never leave a cache by themselves, and with them what a
    compiler of last year, or a broken worker of last night, has made of an action. How old a
    result is say its own metadata (when the worker had completed it) and its provenance (when
    it was stored), of which the earlier counts: a clock that is ahead keeps no result for
    ever. One that does not say is as old as can be to *minimum_timestamp*, which is set when
    results cannot be trusted, and does not age.

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

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        return self._inner.walk(instance)

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        verdict = await self._inner.explain(instance, action_digest)
        if verdict.outcome is not Outcome.HIT or verdict.document is None:
            return verdict
        if self._is_good(action_digest, verdict.document, self._clock.now()):
            return verdict
        return Verdict(Outcome.EXPIRED, verdict.document)

    def _is_good(self, digest: Digest, document: bytes, now: float) -> bool:
        made_at = _made_at(document)
        if made_at is None:
            return not self._minimum_timestamp
        if made_at < self._minimum_timestamp:
            return False
        share = int(digest.hash[:_JITTER_DIGITS], 16) / 16**_JITTER_DIGITS
        return not self._max_seconds or now < made_at + self._max_seconds - self._jitter_seconds * share


def _made_at(document: bytes) -> float | None:
    """Return when the result was made or stored, whichever was first, in Unix seconds, if it says so."""
    result, provenance = split_document(document)
    moments = [] if provenance is None else [provenance.written_at]
    try:
        completed_at = completed_at_of(pb.ActionResult.FromString(result).execution_metadata)
    except DecodeError:
        completed_at = None
    if completed_at is not None:
        moments.append(completed_at)
    return min(moments, default=None)
