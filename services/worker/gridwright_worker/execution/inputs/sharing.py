"""Which files of the cache actions have in common, and which of them an action has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from gridwright.digest import Digest
from gridwright_worker.execution.inputs.tree import InputFile

#: Some 400 bytes each. Fewer than an action has inputs would not do: it could change them all, each time anew.
_MAX_PRIVATE = 100_000


@dataclass(slots=True)
class _Use:
    """How a file is used, while it is; moments are counts of what happened before."""

    holders: int = 0
    #: When it last had more than one holder, one of which has left since; 0 is never.
    shared: int = 0
    changed: int = 0


class Sharing:
    """Says which inputs of an action another one can have changed under it.

    Kept by file, not by inode: a file may be forgotten and fetched again while an earlier
    holder runs, who may be linking to either. All decisions, no I/O; of one event loop,
    but for :meth:`is_private`.
    """

    def __init__(self, *, max_private: int = _MAX_PRIVATE) -> None:
        self._uses: dict[InputFile, _Use] = {}
        self._now = 0
        #: What actions have changed, the least recently used first.
        self._private: OrderedDict[Digest, None] = OrderedDict()
        self._max_private = max_private

    def __repr__(self) -> str:
        return f"<Sharing {len(self._uses)} files in use, {len(self._private)} private>"

    def is_private(self, file: InputFile) -> bool:
        """Return whether each action is to have its own copy of *file*; from any thread."""
        return file.digest in self._private

    def begin(self, files: Iterable[InputFile]) -> int:
        """Note one more holder of *files*; return the moment, for :meth:`end`."""
        self._now += 1
        for file in files:
            use = self._uses.get(file)
            if use is None:
                use = self._uses[file] = _Use()
            use.holders += 1
            if self._private and file.digest in self._private:
                self._private.move_to_end(file.digest)
        return self._now

    def changed(self, files: Collection[InputFile]) -> None:
        """Note that *files* are not what they were; where nobody holds one, it was no action."""
        self._now += 1
        for file in files:
            if use := self._uses.get(file):
                use.changed = self._now
                self._private[file.digest] = None
                self._private.move_to_end(file.digest)
        while len(self._private) > self._max_private:
            self._private.popitem(last=False)

    def end(self, files: Iterable[InputFile], begun: int) -> list[InputFile]:
        """Note that a holder of *files* since the moment *begun* has left.

        Returns those that have changed since, and that it did not have alone all the time:
        what it read of them may be another action's.
        """
        self._now += 1
        suspect: list[InputFile] = []
        for file in files:
            use = self._uses[file]
            if use.changed > begun and (use.holders > 1 or use.shared > begun):
                suspect.append(file)
            use.holders -= 1
            if use.holders:
                use.shared = self._now
            else:
                del self._uses[file]
        return suspect
