"""Which settings several processes can serve together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gridwright.settings import Address
from gridwright.store_settings.named_stores import Fault, NamedStores, Root
from gridwright.store_settings.store import ExistenceCacheStoreSettings

#: Leaves that belong to one process, and what to write instead.
_ALONE: Final[Mapping[str, str]] = {
    "memory": "each process would have a memory of its own, and not find what another was given; write segments",
    "filesystem": "one process at a time can use the directory; write segments, with a directory of its own",
}


def faults_of_sharing(listen: Address, stores: NamedStores, root: Root) -> Iterator[Fault]:
    """Yield what several processes could not share, with what to write instead."""
    if listen.is_unix:
        yield Fault(
            "cas.listen", "a Unix socket has one listener; write HOST:PORT, which cas.processes share, or processes: 1"
        )
    for key, store in stores.made_of(root):
        if (why := _ALONE.get(store.kind)) is not None:
            yield Fault(key, f"{why}, or cas.processes: 1")
        elif isinstance(cache := store.variant, ExistenceCacheStoreSettings) and not cache.eviction_policy.max_seconds:
            yield Fault(
                f"{key}.eviction_policy.max_seconds",
                "required with cas.processes above 1, as each hears a second late of what another removes; write, say, "
                "600, or its backend alone",
            )
