"""One question to the CAS for many callers."""

from __future__ import annotations

from collections.abc import Set

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, Unavailable
from gridwright.shared_calls import CallBounds, SharedCalls

#: One question is a FindMissingBlobs of some 700 KB.
_BOUNDS = CallBounds(keys_per_call=10_000, waiting_keys=1_000_000, gathering_seconds=0.001)


class CoalescedQuestions:
    """Asks a CAS what it lacks, with one call for all who ask at the same time."""

    def __init__(self, blobs: BlobStore, bounds: CallBounds = _BOUNDS) -> None:
        self._shared = SharedCalls(blobs.missing, bounds, "the CAS")

    @property
    def calls(self) -> int:
        """How many calls were made to the CAS."""
        return self._shared.calls

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        """Return those of *digests* that the CAS lacks; the others count as used now.

        Raises:
            Unavailable: the CAS cannot answer.
            ResourceExhausted: too many questions wait for it.
        """
        if not digests:
            return set()
        answer = self._shared.ask(digests)
        try:
            return digests & await answer
        except GridwrightError as error:
            raise Unavailable(f"the CAS cannot say whether outputs are there: {error}") from None

    async def aclose(self) -> None:
        """Give up what is on its way; its callers hear Unavailable."""
        await self._shared.aclose()
