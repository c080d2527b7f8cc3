"""A file that appears whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


class Draft:
    """What is to become the file at *path*, under another name beside it until ``keep``.

    So whoever reads the file never sees half of it, and an interrupted command leaves nothing.
    What is no regular file, a pipe or ``/dev/null`` for one, is written directly.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft: str | None = None
        if path.exists() and not path.is_file():
            self.fileno = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        else:
            self.fileno, self._draft = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.fileno)
        if self._draft is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._draft)

    def keep(self) -> None:
        """Give it its name, and the rights of any new file."""
        if self._draft is None:
            return
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self._draft, 0o666 & ~mask)
        os.replace(self._draft, self._path)
        self._draft = None
