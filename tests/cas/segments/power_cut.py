"""What a power cut leaves of files and names: a model without a disk.

A file keeps what was written before its last fdatasync, a directory the names that it had at
its last fsync. Of what came later a disk may have brought anything out: a write whole, in
part, as zeros, or not at all, and writes in any order. Changes of one directory come out in
their order, as a journaling file system has it, but those of two directories do not wait for
each other. An fdatasync that failed has lost its writes for good: the kernel forgets that
they are dirty, so the next fdatasync succeeds without them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

_SECTOR_BYTES = 512


class Survival(Enum):
    """What becomes of the changes that nobody waited for."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    #: Each change by itself, at random, in part too.
    TORN = "torn"


@dataclass
class Cut:
    """One power cut."""

    survival: Survival = Survival.NOTHING
    #: LMDB with ``metasync=False`` does not wait for the page that makes its last transaction valid.
    undo_last_commit: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def survivors(self, count: int) -> int:
        """How many of *count* changes that come out in order did."""
        match self.survival:
            case Survival.NOTHING:
                return 0
            case Survival.EVERYTHING:
                return count
            case Survival.TORN:
                return self.random.randint(0, count)


@dataclass(frozen=True)
class Write:
    """Bytes that were written and not synchronised."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    def applied(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.end] = self.data

    def survivors(self, cut: Cut) -> list[Write]:
        """Return what came out of this write."""
        if cut.survival is not Survival.TORN:
            return [self] if cut.survival is Survival.EVERYTHING else []
        match cut.random.randrange(6):
            case 0:
                return []
            case 1:
                return [self]
            case 2:
                return [Write(self.offset, self.data[: cut.random.randrange(len(self.data) + 1)])]
            case 3:  # the file grew, its blocks were never written
                return [Write(self.offset, bytes(len(self.data)))]
            case 4:  # the later blocks came out, the first ones did not
                skipped = cut.random.randrange(len(self.data) + 1)
                return [Write(self.offset + skipped, self.data[skipped:])]
            case _:  # each sector has its own fate
                starts = range(0, len(self.data), _SECTOR_BYTES)
                sectors = (Write(self.offset + start, self.data[start : start + _SECTOR_BYTES]) for start in starts)
                return [sector for sector in sectors if cut.random.random() < 0.8]


@dataclass(frozen=True)
class Truncation:
    """A change of the size that was not synchronised."""

    size: int

    def applied(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))

    def survivors(self, cut: Cut) -> list[Truncation]:
        return [self] * cut.survivors(1)


class File:
    """One file, whatever its names are."""

    def __init__(self, content: bytes = b"") -> None:
        self._durable = bytearray(content)
        self._changes: list[Write | Truncation] = []
        #: Writes of an fdatasync that failed: they may have come out, and never will if they did not.
        self._lost: list[Write | Truncation] = []

    def change(self, change: Write | Truncation) -> None:
        """Something was written."""
        self._changes.append(change)

    def sync(self) -> None:
        """An fdatasync succeeded."""
        for change in self._changes:
            change.applied(self._durable)
        rewritten = [change for change in self._changes if isinstance(change, Write)]
        self._lost = [lost for lost in self._lost if not any(_overlap(lost, write) for write in rewritten)]
        self._changes.clear()

    def fail_sync(self) -> None:
        """An fdatasync failed."""
        self._lost += self._changes
        self._changes.clear()

    def after(self, cut: Cut) -> bytes:
        """Return what the file holds when the power is back."""
        content = bytearray(self._durable)
        for change in (*self._lost, *self._changes):
            for survivor in change.survivors(cut):
                survivor.applied(content)
        return bytes(content)


def _overlap(lost: Write | Truncation, write: Write) -> bool:
    return isinstance(lost, Write) and lost.offset < write.end and write.offset < lost.end


class Directory:
    """One directory: its names now, and those that are durable."""

    def __init__(self) -> None:
        self.names: dict[str, File | Directory] = {}
        self._durable: dict[str, File | Directory] = {}
        #: Each change is of one or more names at once; None: the name goes.
        self._changes: list[dict[str, File | Directory | None]] = []

    def change(self, names: dict[str, File | Directory | None]) -> None:
        """These names changed, all of them together."""
        _rename(self.names, names)
        self._changes.append(names)

    def make_durable(self, names: dict[str, File | Directory]) -> None:
        """These names were durable all along."""
        self._durable |= names

    def sync(self) -> None:
        """An fsync of the directory succeeded."""
        self._durable = dict(self.names)
        self._changes.clear()

    def after(self, cut: Cut) -> dict[str, File | Directory]:
        """Return the names that are there when the power is back."""
        names = dict(self._durable)
        for change in self._changes[: cut.survivors(len(self._changes))]:
            _rename(names, change)
        return names


def _rename(names: dict[str, File | Directory], change: dict[str, File | Directory | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node
