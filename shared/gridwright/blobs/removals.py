"""Who wants to hear which blobs went."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gridwright.digest import Digest

#: Hears, on the event loop, which blobs a store holds no longer.
RemovalListener = Callable[[Collection[Digest]], None]


class Removals:
    """The listeners of one leaf: its ``on_removal`` is ``listen``, and it announces on the event loop."""

    def __init__(self) -> None:
        self._listeners: list[RemovalListener] = []

    def listen(self, listener: RemovalListener) -> None:
        """Call *listener* from now on."""
        self._listeners.append(listener)

    def announce(self, digests: Collection[Digest]) -> None:
        """Tell all listeners that *digests* went, if there are any; only on the event loop."""
        if digests:
            for listener in self._listeners:
                listener(digests)
