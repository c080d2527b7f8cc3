"""How long a call that many share waits for more of them."""

from __future__ import annotations

import asyncio
from typing import Protocol

#: A call is worth as much by then as it will ever be, and those who are there have waited long enough.
_ENOUGH = 32
#: From its socket a request needs some turns of the loop to get here.
_TURNS = 8


class SharedCall(Protocol):
    """A call that is about to be made."""

    @property
    def callers(self) -> int:
        """How many it is made for, so far."""
        ...


async def wait_for_company(call: SharedCall, *, seconds: float = 0.0) -> None:
    """Wait for *seconds*, then as long as every few turns of the loop bring one more caller, until there are enough.

    When the loop is busy, those who come next are there already, only not seen yet. To go
    without them makes it busier still, as each call costs as much as several of its callers.
    When it is idle the turns take a few microseconds.
    """
    if seconds:
        await asyncio.sleep(seconds)
    in_vain = 0
    while in_vain < _TURNS and (before := call.callers) < _ENOUGH:
        await asyncio.sleep(0)
        in_vain = 0 if call.callers > before else in_vain + 1
