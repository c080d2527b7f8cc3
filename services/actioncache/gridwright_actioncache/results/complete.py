"""The store that returns a result only while its outputs are there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Set
from dataclasses import dataclass

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, GridwrightError, Unavailable
from gridwright_actioncache.results.hierarchies import Hierarchies
from gridwright_actioncache.results.questions import CoalescedQuestions
from gridwright_actioncache.results.references import MalformedDocument, references_of_result
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome, Verdict


@dataclass
class CompletenessStatistics:
    """What the checks came to since the start."""

    #: Results whose blobs are all there.
    complete: int = 0
    #: Results that name a blob which the CAS lacks.
    incomplete: int = 0
    #: Stored bytes that are no result, or that name a Tree which is none.
    malformed: int = 0


class CompletenessCheckingStore(ResultStore):
    """Finds a result only if every blob that it names is in the CAS.

    A client that gets a result believes in its outputs for hours, often without fetching
    them, and fails when one has gone meanwhile. Asking also counts as use, so the outputs
    of a result that was just found are the last to be evicted (checklist ACG-04, ACG-05).

    Args:
        inner: where results are kept.
        blobs: the CAS of each instance.
    """

    def __init__(self, inner: ResultStore, blobs: Mapping[str, BlobStore]) -> None:
        self._inner = inner
        self._blobs = blobs
        self._questions = {instance: CoalescedQuestions(store) for instance, store in blobs.items()}
        self._hierarchies = Hierarchies()
        self.statistics = CompletenessStatistics()

    def __repr__(self) -> str:
        return f"<CompletenessCheckingStore {self._inner!r}, {self.statistics}>"

    @property
    def questions(self) -> int:
        """How many calls to the CAS the checks took."""
        return sum(one.calls for one in self._questions.values())

    async def aclose(self) -> None:
        """Give up the questions that are on their way."""
        for questions in self._questions.values():
            await questions.aclose()
        await self._hierarchies.aclose()

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        """Return those of the inner store's results that are complete.

        Raises:
            Unavailable: the CAS cannot answer: neither a miss nor a hit that nobody checked (ACG-02).
        """
        found = await self._inner.get_many(instance, action_digests)
        needed: dict[Digest, Set[Digest]] = {}
        for digest, result in found.items():
            try:
                needed[digest] = await self._needed(instance, digest, result)
            except MalformedDocument:
                self.statistics.malformed += 1
            except BlobNotFound:
                self.statistics.incomplete += 1
        missing = await self._questions[instance].missing(frozenset().union(*needed.values()))
        complete = {digest: found[digest] for digest, blobs in needed.items() if blobs.isdisjoint(missing)}
        self.statistics.complete += len(complete)
        self.statistics.incomplete += len(needed) - len(complete)
        return complete

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        await self._inner.put(instance, action_digest, result)

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        await self._inner.remove(instance, action_digests)

    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        return self._inner.walk(instance)

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        """Return what becomes of a question; of an incomplete result, which blobs are missing.

        Raises:
            Unavailable: the CAS cannot answer.
        """
        verdict = await self._inner.explain(instance, action_digest)
        if verdict.outcome is not Outcome.HIT or verdict.document is None:
            return verdict
        try:
            needed = await self._needed(instance, action_digest, verdict.document)
        except MalformedDocument:
            return Verdict(Outcome.MALFORMED, verdict.document)
        except BlobNotFound as error:
            return Verdict(Outcome.INCOMPLETE, verdict.document, frozenset({error.digest}))
        missing = await self._questions[instance].missing(needed)
        return Verdict(Outcome.INCOMPLETE, verdict.document, frozenset(missing)) if missing else verdict

    async def _needed(self, instance: str, action_digest: Digest, result: bytes) -> Set[Digest]:
        """Return all blobs that *result* names, directly and inside its directories."""
        named = references_of_result(result, action_digest.function)
        if not named.directories:
            return named.blobs
        needed = set(named.blobs)
        blobs = self._blobs[instance]
        try:
            for tree, root in named.directories:
                if tree is not None:
                    needed |= await self._hierarchies.inside_tree(tree, blobs)
                # That both hold the same, nobody has checked, and a client may use the one or the other.
                if root is not None:
                    needed |= await self._hierarchies.below_directory(root, blobs)
        except BlobNotFound:
            raise
        except GridwrightError as error:
            raise Unavailable(f"the CAS cannot say what output directories hold: {error}") from error
        return needed
