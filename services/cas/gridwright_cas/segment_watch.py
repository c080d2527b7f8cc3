"""What the segment stores find out is told to the operator; they themselves know neither logs nor processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from gridwright.wire.process import Process

if TYPE_CHECKING:
    from gridwright_cas.stores.segments.engine import Engine

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0


@asynccontextmanager
async def watching(engines: Sequence[Engine], process: Process) -> AsyncIterator[None]:
    """Tell, while the block runs, of what has rotted, why uploads fail, and what this process cannot survive.

    What has rotted is a line in the log for each blob, a few each second; the metric counts all of them. While
    uploads fail the process is not ready. Where LMDB has given up (it refuses everything once it could not write the
    page that makes a transaction valid) the process ends, to be started anew.
    """
    for engine in engines:
        process.readiness.watch(engine.trouble)
        if engine.is_on_doubtful_file_system:
            log.warning(
                "whether this file system can be shared by processes is not known: if it is one of the network,"
                " use another",
                directory=str(engine.path),
            )
    looking = asyncio.create_task(_look(engines, process))
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        for engine in engines:
            _tell_of_rot(engine)


async def _look(engines: Sequence[Engine], process: Process) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for engine in engines:
            _tell_of_rot(engine)
            if engine.index.fatal is not None:
                process.fail(f"the index in {engine.path} cannot be used any more: {engine.index.fatal}")


def _tell_of_rot(engine: Engine) -> None:
    while engine.rotten:
        rot = engine.rotten.popleft()
        log.error(
            "a blob has rotted",
            digest=str(rot.digest),
            file=rot.file,
            offset=rot.offset,
            kept_as=rot.kept_as,
            found_so_far=engine.stats.corrupt_blobs,
        )
