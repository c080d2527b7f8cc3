"""Opening a directory of LMDB's so that it cannot end the process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import lmdb
import structlog

from gridwright.errors import ConfigurationError
from gridwright.file_lock import lock_within
from gridwright.lmdb_file import is_cut_short

log = structlog.get_logger(__name__)

#: The map is this large in every process; the file stays as small as what it holds.
_MAP_BYTES = 2**40
_MAX_READERS = 1024
#: Another process that opens the directory is done by then.
_OPENING_SECONDS = 10.0


async def open_environment(directory: Path) -> lmdb.Environment:
    """Open *directory*, which is made if need be.

    A data file that is cut short is set aside, and an empty one begun: to read it would end
    the process at every start, and what an action cache has lost is built again. (An index of
    blobs, whose loss costs more, should rather stop, or be made anew from the blobs.)

    Raises:
        ConfigurationError: the directory cannot be used.
    """
    try:
        await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
        # One process at a time looks and opens, lest a second one sets the first one's new file aside.
        lock = await lock_within(directory / "opening", _OPENING_SECONDS)
        if lock is None:
            raise ConfigurationError(f"another process has been opening {directory} for {_OPENING_SECONDS:g} seconds")
        try:
            return await asyncio.to_thread(_open, directory)
        finally:
            os.close(lock)
    except (OSError, lmdb.Error) as error:
        raise ConfigurationError(f"cannot keep results in {directory}: {error}") from None


def _open(directory: Path) -> lmdb.Environment:
    if is_cut_short(directory / "data.mdb"):
        _set_aside(directory)
    return lmdb.open(str(directory), map_size=_MAP_BYTES, max_readers=_MAX_READERS, max_dbs=2, metasync=False)


def _set_aside(directory: Path) -> None:
    """Rename both files: whoever still has them open goes on with them, and a new lock file belongs to new data."""
    for name in ("data.mdb", "lock.mdb"):
        if (directory / name).exists():
            os.replace(directory / name, directory / f"{name}.cut-short")
    log.error(
        "the action cache has lost its results: data.mdb was shorter than what it held, and was set aside",
        data_file=str(directory / "data.mdb.cut-short"),
        what_to_do="look for a copy that was interrupted, a full disk or a damaged file system; then remove the file",
    )
