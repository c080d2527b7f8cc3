"""One question to the CAS for many callers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Set

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable

#: What one question holds, unless a single caller has more: a FindMissingBlobs of some 700 KB.
_DIGESTS_PER_QUESTION = 10_000
_GATHERING_SECONDS = 0.001
_MAX_WAITING_DIGESTS = 1_000_000


class CoalescedQuestions:
    """Asks a CAS what it lacks, with one call for all who ask at the same time.

    A call costs many times what a digest in it costs. So one call is on its way at a time;
    whoever comes meanwhile joins the next one, and while callers come in company the next one
    waits a millisecond for more of them. A caller alone does not wait.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._rounds: deque[_Round] = deque()
        self._waiting_digests = 0
        self._asking: asyncio.Task[None] | None = None
        #: Calls made to the CAS.
        self.calls = 0

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        """Return those of *digests* that the CAS lacks; the others count as used now.

        Raises:
            Unavailable: the CAS cannot answer.
            ResourceExhausted: too many questions wait for it.
        """
        if not digests:
            return set()
        if self._waiting_digests + len(digests) > max(_MAX_WAITING_DIGESTS, len(digests)):
            raise ResourceExhausted("too many questions wait for the CAS", retry_after_seconds=1.0)
        round_ = self._join(digests)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="questions to the CAS")
        # The others who ask the same are not to suffer when one caller leaves.
        answer = await asyncio.shield(round_.answer)
        if isinstance(answer, GridwrightError):
            raise Unavailable(f"the CAS cannot say whether outputs are there: {answer}")
        return digests & answer

    async def aclose(self) -> None:
        """Give up what is on its way; its callers hear Unavailable."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _join(self, digests: Set[Digest]) -> _Round:
        if not self._rounds or len(self._rounds[-1].digests) + len(digests) > _DIGESTS_PER_QUESTION:
            self._rounds.append(_Round())
        round_ = self._rounds[-1]
        before = len(round_.digests)
        round_.digests |= digests
        round_.callers += 1
        self._waiting_digests += len(round_.digests) - before
        return round_

    async def _ask(self) -> None:
        given_up = Unavailable("the service is stopping")
        try:
            company = False
            while self._rounds:
                if company:
                    await asyncio.sleep(_GATHERING_SECONDS)
                round_ = self._rounds.popleft()
                company = round_.callers > 1
                self._waiting_digests -= len(round_.digests)
                answer: Set[Digest] | GridwrightError = given_up
                try:
                    self.calls += 1
                    answer = await self._blobs.missing(round_.digests)
                except GridwrightError as error:
                    answer = error
                finally:
                    round_.answer.set_result(answer)
        finally:
            while self._rounds:
                self._rounds.popleft().answer.set_result(given_up)
            self._waiting_digests = 0


class _Round:
    """What travels in one call, and what comes back."""

    def __init__(self) -> None:
        self.digests: set[Digest] = set()
        self.callers = 0
        self.answer: asyncio.Future[Set[Digest] | GridwrightError] = asyncio.get_running_loop().create_future()
