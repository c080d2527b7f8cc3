"""Removes blobs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from gridwright.digest import Digest
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory
from gridwright_cas.stores.segments.index import MAX_ROWS
from gridwright_cas.stores.segments.key import keys_of
from gridwright_cas.stores.segments.remover import Tally
from gridwright_cas.stores.segments.row import unpack_row


def rm(directory: OpenDirectory, messages: Messages, stop: Stop, digests: Iterable[Digest]) -> None:
    """Remove blobs, of which services on the directory hear; say which were not there, and how many were.

    A service that has one in its hands ends that read well.
    """
    tally = Tally()
    rest = iter(digests)
    while some := list(dict.fromkeys(islice(rest, MAX_ROWS))):
        stop.check()
        keys = keys_of(some)
        values = directory.engine.index.values_of(keys)
        rows = [(key, unpack_row(value)) for key, value in zip(keys, values, strict=True) if value is not None]
        for digest, value in zip(some, values, strict=True):
            if value is None:
                messages.say("absent", str(digest))
        directory.remover.remove([one for one in rows if not one[1].is_large], tally)
        directory.remover.drop_large([one for one in rows if one[1].is_large], tally)
        messages.progress("removing", tally.blobs, None, "blobs")
    # So that they do not come back if the power goes now.
    directory.engine.index.sync()
    messages.result({"removed": tally.blobs, "bytes": tally.size_bytes})
