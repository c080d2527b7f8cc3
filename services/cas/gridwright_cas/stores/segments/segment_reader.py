"""Reading records, of this process's segments and of others', each checked before a byte of it is used."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from gridwright_cas.stores.segments.record import Damaged, payload_of, record_size
from gridwright_cas.stores.segments.row import row_parts
from gridwright_cas.stores.segments.segment_file import SegmentDirectory

#: Segments that are kept open: 64 GiB of blobs at the usual size.
_MAX_OPEN = 256
#: Records that lie so near to each other are read at once; but in pieces that fit into the processor's cache: these
#: took 0.2 µs per KiB here, reads of 1 MiB took 0.85.
_GAP_BYTES = 16 * 1024
_RUN_BYTES = 256 * 1024


#: Where the record of a blob should be: segment, offset, bytes; the blob's key, and its stored bytes. A plain tuple,
#: of which a thousand cost less.
Place = tuple[int, int, int, bytes, int]


class Run(NamedTuple):
    """Records of one segment that are read at once."""

    segment: int
    start: int
    end: int
    places: Sequence[Place]


#: The bytes of a blob, or why its record is of no use.
Payload = bytes | Damaged


class _OpenFile:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.readers = 0
        self.forgotten = False


class SegmentReader:
    """Reads records by their places, and keeps the files of segments open for the next time.

    A file is closed when it has not been used for long and too many are open, or when its segment is gone, but
    never under somebody who reads. Methods may be called from any thread.
    """

    def __init__(self, directory: SegmentDirectory) -> None:
        self._directory = directory
        self._disk = directory.disk
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read_cached(self, run: Run) -> dict[bytes, Payload] | None:
        """Like ``read``, but return None where the disk would have to be waited for; raises OSError."""
        with self._borrowed(run.segment) as fd:
            data = self._disk.read_cached(fd, run.end - run.start, run.start)
        return None if data is None else _payloads(run, data)

    def read(self, run: Run) -> dict[bytes, Payload]:
        """Return the payloads of a run's blobs.

        Raises:
            FileNotFoundError: the segment is gone.
            OSError: the disk fails.
        """
        with self._borrowed(run.segment) as fd:
            data = self._disk.read(fd, run.end - run.start, run.start)
        return _payloads(run, data)

    def forget(self, segments: Iterable[int]) -> None:
        """Close the files of segments that are gone, whose space is free only then."""
        with self._lock:
            for segment in segments:
                if (file := self._files.pop(segment, None)) is not None:
                    self._retire(file)

    def close(self) -> None:
        """Close all files; nobody may be reading."""
        self.forget(list(self._files))

    @contextmanager
    def _borrowed(self, segment: int) -> Iterator[int]:
        file = self._borrow(segment)
        try:
            yield file.fd
        finally:
            with self._lock:
                file.readers -= 1
                if file.forgotten and file.readers == 0:
                    self._disk.close(file.fd)

    def _borrow(self, segment: int) -> _OpenFile:
        with self._lock:
            file = self._files.get(segment)
            if file is None:
                file = _OpenFile(self._disk.open(self._directory.path_of(segment), os.O_RDONLY))
                self._files[segment] = file
                if len(self._files) > _MAX_OPEN:
                    self._retire(self._files.popitem(last=False)[1])
            else:
                self._files.move_to_end(segment)
            file.readers += 1
            return file

    def _retire(self, file: _OpenFile) -> None:
        file.forgotten = True
        if file.readers == 0:
            self._disk.close(file.fd)


def places_of(values: Mapping[bytes, bytes]) -> list[Place]:
    """Return the places of those blobs, given as keys and packed rows, that are small."""
    places: list[Place] = []
    for key, value in values.items():
        _, segment, offset, stored_bytes, _ = row_parts(value)
        if segment:
            places.append((segment, offset, record_size(key, stored_bytes), key, stored_bytes))
    return places


def runs_of(places: Sequence[Place]) -> list[Run]:
    """Return how to read these places in few steps: what was written together lies together."""
    runs: list[Run] = []
    some: list[Place] = []
    segment = start = end = -1
    for place in sorted(places):
        its_segment, offset, size, _, _ = place
        if its_segment != segment or offset > end + _GAP_BYTES or offset + size > start + _RUN_BYTES:
            if some:
                runs.append(Run(segment, start, end, some))
            segment, start, some = its_segment, offset, []
        some.append(place)
        end = offset + size
    if some:
        runs.append(Run(segment, start, end, some))
    return runs


def _payloads(run: Run, data: bytes) -> dict[bytes, Payload]:
    payloads: dict[bytes, Payload] = {}
    start = run.start
    for _, offset, _, key, stored_bytes in run.places:
        try:
            payloads[key] = payload_of(data, offset - start, key, stored_bytes)
        except Damaged as damaged:
            payloads[key] = damaged
    return payloads
