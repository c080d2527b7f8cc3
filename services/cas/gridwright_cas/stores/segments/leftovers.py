"""What processes that died had begun and nobody will finish."""

from __future__ import annotations

from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.owners import is_alive
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.remover import Remover
from gridwright_cas.stores.segments.room import KEPT, large_holder, segment_holder

#: A replay of what the dead process acknowledged is over by then, whoever makes it.
_GRACE_SECONDS = 60.0


class Leftovers:
    """Clears away files and charges that no row will ever name.

    Room is charged before a file is made, so whatever file has no charge is nobody's: a power cut
    has undone the transaction. A charge that is not settled and whose owner is dead is for nothing, once
    the segments that its owner left open have been replayed: one of them may say that the file is a blob.
    """

    def __init__(self, parts: Parts, remover: Remover) -> None:
        self._parts = parts
        self._remover = remover
        #: When each dead owner was first seen dead (monotonic seconds).
        self._dead: dict[int, float] = {}

    def clear_strays(self) -> None:
        """Remove files without a charge; to be called once, by who begins to keep house.

        Raises:
            Unavailable, ResourceExhausted: the disk fails.
        """
        parts = self._parts
        with disk_errors():
            # First the files, then the charges: what is begun in between has its charge.
            files = parts.large.file_ids()
            segments = {int(name) for name in parts.disk.list_directory(parts.segments.path) if name.isdecimal()}
            with parts.index.reading() as txn:
                charged = {holder for sort in (b"L", b"S") for holder, _ in parts.room.charges(txn, sort)}
            for holder in {large_holder(file_id) for file_id in files} | {segment_holder(one) for one in segments}:
                if holder not in charged:
                    self._remover.unlink(holder)

    def clear_charges(self) -> None:
        """Give back what dead processes took and never settled, and remove their files; to be called every minute.

        Raises:
            Unavailable, ResourceExhausted: the disk fails.
        """
        parts = self._parts
        with parts.index.reading() as txn:
            charges = [
                (holder, charge.owner)
                for sort in (b"L", b"S")
                for holder, charge in parts.room.charges(txn, sort)
                if charge.owner not in (KEPT, parts.room.owner)
            ]
            segments = {segment_holder(segment) for segment in parts.index.segments.states(txn)}
        now = parts.clock.monotonic()
        owners = {owner for _, owner in charges}
        with disk_errors():
            self._dead = {owner: self._dead.get(owner, now) for owner in owners if not is_alive(parts.locks, owner)}
        gone = {owner for owner, since in self._dead.items() if now - since >= _GRACE_SECONDS}
        gone -= {owner for holder, owner in charges if holder in segments}  # which are yet to be replayed
        self._remover.doom([holder for holder, owner in charges if owner in gone and holder not in segments])
