"""The directories of one slot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gridwright_worker.execution.removal import empty, remove


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the actions of one slot live, one after the other.

    ``build`` is the input root, ``tmp`` what TMPDIR says; standard output and error lie
    beside them.
    """

    directory: Path

    @property
    def input_root(self) -> Path:
        return self.directory / "build"

    @property
    def temporary(self) -> Path:
        return self.directory / "tmp"

    @property
    def stdout(self) -> Path:
        return self.directory / "stdout"

    @property
    def stderr(self) -> Path:
        return self.directory / "stderr"

    def seen_at(self, root: str) -> Workspace:
        """Return the same workspace as the slot's processes see it, through a bind mount perhaps."""
        return Workspace(Path(root))

    def clear(self) -> None:
        """Leave nothing of the last action, and make the two directories."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = (self.input_root.name, self.temporary.name)
        with os.scandir(self.directory) as entries:
            for entry in list(entries):
                # An action can put a symlink in the place of its own input root.
                if entry.name in kept and entry.is_dir(follow_symlinks=False):
                    empty(entry.path, str(self.directory))
                else:
                    remove(entry.path, str(self.directory))
        for path in (self.input_root, self.temporary):
            path.mkdir(exist_ok=True)
