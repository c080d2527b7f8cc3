"""Revoking all results that came from somewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gridwright.digest import Digest
from gridwright_actioncache.results.provenance import provenance_of
from gridwright_actioncache.results.store import ResultStore


class Condemned(NamedTuple):
    """Which results are to go: those for which everything that is given here is true."""

    #: The worker that ran the action.
    worker: str = ""
    #: Who wrote the result.
    subject: str = ""
    #: Stored at this moment or later, in Unix seconds.
    since: float | None = None
    #: Stored before this moment.
    until: float | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is given."""
        return self == Condemned()

    def holds(self, document: bytes) -> bool:
        """Return whether the result in *document* is to go.

        One that was stored before provenance was kept is as old as its metadata says; what does
        not say when, or by which worker, does not fit a question for that.
        """
        provenance = provenance_of(document)
        if provenance is None:
            return self.is_everything
        return (
            (not self.worker or provenance.worker == self.worker)
            and (not self.subject or provenance.subject == self.subject)
            and (self.since is None or provenance.written_at >= self.since)
            and (self.until is None or 0 < provenance.written_at < self.until)
        )


async def revoke(
    store: ResultStore, instance: str, page: Mapping[Digest, bytes], condemned: Condemned, *, dry_run: bool
) -> int:
    """Remove those results of *page*, which a walk along *store* gave, that are *condemned*; return how many these are.

    A result that is put during the walk may stay, so what makes bad ones is to be stopped first.

    Raises:
        Unavailable: what lies behind the store cannot answer.
        PermissionDenied: the store is read-only.
    """
    victims = [digest for digest, document in page.items() if condemned.holds(document)]
    if victims and not dry_run:
        await store.remove(instance, victims)
    return len(victims)
