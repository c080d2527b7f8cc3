"""The interface of everything that keeps results of actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Protocol

from gridwright.digest import Digest
from gridwright_actioncache.results.verdict import Outcome, Verdict

#: What a page of :meth:`ResultStore.walk` holds at most.
PAGE_RESULTS = 1_000


class ResultStore(Protocol):
    """Keeps the result of each action under the action's digest, apart for each instance.

    A result is a document, the bytes of an ``ActionResult`` with where it came from in front
    (``provenance.py``), and comes out as the bytes that went in: fields that this version does
    not know survive (checklist ACU-12). A leaf keeps bytes; a decorator holds another store
    and changes one thing about it. Both look the same from outside, so a whole policy is a
    nest of constructors in ``app.py``. Bulk is the common case: a decorator forwards bulk as
    bulk.

    Every method raises ``Unavailable`` when what lies behind the store cannot answer; that is
    never reported as absence, which would make every client build again (checklist ACG-02).
    """

    @abstractmethod
    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        """Return the results that are kept, and leave out the others; the found ones count as used now."""
        ...

    @abstractmethod
    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        """Keep *result* in place of what was kept; whoever reads sees the one or the other (checklist ACU-08).

        On return it is kept as well as this store keeps anything: it outlives the process
        where the store does.

        Raises:
            ResourceExhausted: there is no room for it, or too many wait to be kept.
        """
        ...

    @abstractmethod
    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        """Keep these results no longer; those that are not kept are passed over.

        Unlike a blob, a result can be replaced by another one, so that of two stores one may
        hold what is out of date: whoever composes them must be able to take it back.
        """
        ...

    @abstractmethod
    def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        """Yield all results of *instance*, in pages of at most ``PAGE_RESULTS``, in any order.

        For whoever looks for the results of one worker, so none counts as used. What changes
        meanwhile may be there or not, and a result may come twice. A decorator yields what
        its store holds, whether or not it would be found.

        Raises:
            Unimplemented: what lies behind the store cannot say what it holds.
        """
        ...

    async def explain(self, instance: str, action_digest: Digest) -> Verdict:
        """Return what becomes of a question for this result, and why; nothing is counted."""
        found = await self.get_many(instance, [action_digest])
        return Verdict(Outcome.HIT, found[action_digest]) if action_digest in found else Verdict(Outcome.ABSENT)
