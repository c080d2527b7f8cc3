"""One call to Redis for all who read at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

from gridwright.errors import GridwrightError
from gridwright.shared_calls import CallBounds, SharedCalls

#: Results have some kilobytes, now and then a megabyte, and the answer must not take long.
_BOUNDS = CallBounds(keys_per_call=100, waiting_keys=100_000, gathering_seconds=0.0005)

Value = bytes | GridwrightError | None


class CoalescedReads:
    """Reads keys, with one call for all who want some at the same time.

    Args:
        read: returns what is under each key.
    """

    def __init__(self, read: Callable[[Sequence[bytes]], Awaitable[Sequence[Value]]]) -> None:
        self._read = read
        self._shared = SharedCalls(self._found, _BOUNDS, "Redis")

    async def get(self, keys: Sequence[bytes]) -> Mapping[bytes, Value]:
        """Return what is under each of *keys*.

        Raises:
            ResourceExhausted: too many wait already.
        """
        found: dict[bytes, Value] = {}
        for first in range(0, len(keys), _BOUNDS.keys_per_call):
            part = keys[first : first + _BOUNDS.keys_per_call]
            answer = await self._shared.ask(part)
            found.update((key, answer[key]) for key in part)
        return found

    async def aclose(self) -> None:
        """Give up what is on its way; its callers hear Unavailable."""
        await self._shared.aclose()

    async def _found(self, keys: Set[bytes]) -> Mapping[bytes, Value]:
        asked = list(keys)
        return dict(zip(asked, await self._read(asked), strict=True))
