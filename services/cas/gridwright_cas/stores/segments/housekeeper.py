"""The thread that evicts, scrubs and clears up, in one of the processes that use a directory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gridwright.errors import GridwrightError
from gridwright.file_lock import try_lock
from gridwright_cas.stores.segments.evictor import Evictor
from gridwright_cas.stores.segments.leftovers import Leftovers
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.quarantine import Quarantine
from gridwright_cas.stores.segments.scrubber import Scrubber
from gridwright_cas.stores.segments.survivors import Survivors

#: How often a process that does not keep house looks whether the one that does has died.
_CANDIDATE_SECONDS = 0.5
#: How often the one that does looks whether another process wants room.
_WATCH_SECONDS = 0.05
_MINUTE_SECONDS = 60.0
_EXPIRY_SECONDS = 5.0
_RETRY_SECONDS = 1.0


def try_to_keep_house(root: Path) -> int | None:
    """Return a lock that makes this the only process which evicts and scrubs there, or None if another one does."""
    return try_lock(root / "locks" / "housekeeper")


class Chores(NamedTuple):
    """What is to be done in the house."""

    evictor: Evictor
    scrubber: Scrubber
    leftovers: Leftovers
    partials: PartialUploads
    quarantine: Quarantine
    survivors: Survivors


class Housekeeper:
    """Waits for the lock that makes this process the one that keeps house, and then does until it is stopped.

    When the process that keeps house dies the kernel frees the lock, and the next one takes over within a second.

    Args:
        parts: the directory.
        chores: what it does there.
        scrub_bytes_per_second: how fast to scrub; 0: not at all.
        on_removal: called, on this thread, after something may have been added to the removal log.
    """

    def __init__(
        self,
        parts: Parts,
        chores: Chores,
        *,
        scrub_bytes_per_second: int = 0,
        on_removal: Callable[[], None] = lambda: None,
    ) -> None:
        self._parts = parts
        self._chores = chores
        self._scrub_bytes_per_second = scrub_bytes_per_second
        self._on_removal = on_removal
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="segment-housekeeper", daemon=True)
        self._clock = parts.clock
        self._scrub_at = self._expire_at = self._clear_at = self._clock.monotonic()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, once the step under way has ended; the lock is free for another process then."""
        self._stopping = True
        self._parts.room.wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            try:
                lock = try_to_keep_house(self._parts.root)
            except OSError:
                lock = None
            if lock is None:
                self._pause(_CANDIDATE_SECONDS)
                continue
            try:
                self._keep_house()
            finally:
                os.close(lock)

    def _keep_house(self) -> None:
        """Do the chores until the end."""
        first = True
        while not self._stopping:
            try:
                if first:
                    self._chores.leftovers.clear_strays()
                    self._chores.partials.remove_strays()
                    self._chores.quarantine.remove_strays()
                    first = False
                self._do_chores()
            except Exception as error:
                # Mostly the disk fails, which those who read or write will hear. Whatever it is: without this
                # thread the store fills up and takes nothing more, so it is counted, told, and tried again.
                self._parts.stats.housekeeping_failures += 1
                self._parts.stats.last_housekeeping_failure = repr(error)
                self._pause(_RETRY_SECONDS)
        self._chores.scrubber.close()
        try:
            self._chores.survivors.close()
        except (GridwrightError, OSError):
            self._parts.stats.housekeeping_failures += 1  # whoever comes next finds an open segment and replays it

    def _do_chores(self) -> None:
        now = self._clock.monotonic()
        evicted = self._parts.stats.evicted_blobs + self._parts.stats.corrupt_blobs
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRY_SECONDS
            try:
                self._chores.partials.relieve()  # first: on a full disk the others may fail
            finally:
                self._chores.evictor.run()
        else:
            self._chores.evictor.make_room()
        if now >= self._clear_at:
            self._clear_at = now + _MINUTE_SECONDS
            self._chores.leftovers.clear_charges()
            self._chores.partials.expire()
            self._chores.quarantine.expire()
        if self._scrub_bytes_per_second and now >= self._scrub_at:
            read_bytes = self._chores.scrubber.step()
            # The rounds of a store that is nearly empty need not follow each other at once.
            rest = _MINUTE_SECONDS if read_bytes is None else read_bytes / self._scrub_bytes_per_second
            self._scrub_at = now + rest
        if self._parts.stats.evicted_blobs + self._parts.stats.corrupt_blobs != evicted:
            self._on_removal()
        scrub_in = self._scrub_at - now if self._scrub_bytes_per_second else _WATCH_SECONDS
        self._pause(max(0.0, min(_WATCH_SECONDS, scrub_in)))

    def _pause(self, seconds: float) -> None:
        """Wait until somebody in this process wants room, or for so long."""
        wanted = self._parts.room.wanted
        wanted.wait(seconds)
        if not self._stopping:
            wanted.clear()
