"""The directories of one slot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4


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
        """Leave nothing of the last action, and make the two directories.

        What cannot be removed, a file made immutable say, is moved aside: it must not be
        seen by the next action, and must not end the slot either.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = (self.input_root.name, self.temporary.name)
        with os.scandir(self.directory) as entries:
            for entry in entries:
                # An action can put a symlink in the place of its own input root.
                if entry.name in kept and entry.is_dir(follow_symlinks=False):
                    _removing(_empty, entry.path)
                else:
                    _removing(_remove, entry.path)
        for path in (self.input_root, self.temporary):
            path.mkdir(exist_ok=True)


_ASIDE = "unremovable-"


def _removing(remove: Callable[[str], None], path: str) -> None:
    try:
        remove(path)
    except PermissionError:
        _unlock(path)
        try:
            remove(path)
        except OSError:
            directory, name = os.path.split(path)
            if not name.startswith(_ASIDE):
                os.rename(path, os.path.join(directory, f"{_ASIDE}{uuid4().hex}"))


def _empty(directory: str) -> None:
    """Empty *directory*, which stays: making it again costs more than a look into it."""
    os.chmod(directory, 0o755)
    with os.scandir(directory) as entries:
        for entry in entries:
            _remove(entry.path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _unlock(path: str) -> None:
    """Give back to the owner what an action took away: directories that cannot be read or written."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
    for parent, directories, _ in os.walk(path):
        for name in directories:
            directory = os.path.join(parent, name)
            if not os.path.islink(directory):
                os.chmod(directory, 0o700)
