"""Names all blobs."""

from __future__ import annotations

from gridwright.digest import DigestFunction
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.rows import rows_of, rows_with_prefix
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory
from gridwright_cas.stores.segments.key import digest_of


def ls(
    directory: OpenDirectory, messages: Messages, stop: Stop, *, function: DigestFunction | None, prefix: str
) -> None:
    """Say of each blob, in the order of functions and hashes, how large it is, where, and when it was last used."""
    index = directory.engine.index
    functions = [function] if function is not None else sorted(DigestFunction)
    everything = function is None and not prefix
    walks = [rows_of(index)] if everything else [rows_with_prefix(index, one, prefix) for one in functions]
    for walk in walks:
        for portion in walk:
            stop.check()
            for key, row in portion:
                messages.say(
                    "blob",
                    {
                        "digest": str(digest_of(key)),
                        "stored_bytes": row.stored_bytes,
                        "touched": row.touched_ms / 1000,
                        "where": "large file" if row.is_large else f"segment {row.segment}",
                    },
                )
