"""One call for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from gridwright.company import wait_for_company
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable

K = TypeVar("K")
A = TypeVar("A")


@dataclass(frozen=True)
class CallBounds:
    """How much travels together."""

    #: What one call asks for, unless a single caller asks for more.
    keys_per_call: int
    #: What may wait for its call.
    waiting_keys: int
    #: How long a call waits for more callers while they come in company.
    gathering_seconds: float


class SharedCalls(Generic[K, A]):
    """Asks somebody else, with one call for all who ask at the same time.

    A call costs many times what a key in it costs. So one call is on its way at a time;
    whoever comes meanwhile joins the next one, and while callers come in company the next one
    waits a moment for more of them (see ``gridwright.company``). A caller alone does not wait.

    Args:
        call: asks for keys, each of them once and in the order in which they came.
        whom: who is asked, for error messages.
    """

    def __init__(self, call: Callable[[Set[K]], Awaitable[A]], bounds: CallBounds, whom: str) -> None:
        self._call = call
        self._bounds = bounds
        self._whom = whom
        self._rounds: deque[_Round[K, A]] = deque()
        self._waiting_keys = 0
        self._calling: asyncio.Task[None] | None = None
        #: Calls made.
        self.calls = 0

    def ask(self, keys: Collection[K]) -> Awaitable[A]:
        """Return the answer to a call that asks for *keys*, and maybe for others' as well.

        Awaiting it raises what the call has raised, if that is a GridwrightError; Unavailable, if this is closed.

        Raises:
            ResourceExhausted: too much waits already.
        """
        if self._waiting_keys + len(keys) > max(self._bounds.waiting_keys, len(keys)):
            raise ResourceExhausted(f"too many questions wait for {self._whom}", retry_after_seconds=1.0)
        round_ = self._join(keys)
        if self._calling is None or self._calling.done():
            self._calling = asyncio.create_task(self._call_until_all_are_answered(), name=f"calls to {self._whom}")
        return round_.answered()

    async def aclose(self) -> None:
        """Give up what is on its way; its callers hear Unavailable."""
        if self._calling is not None:
            self._calling.cancel()
            await asyncio.wait([self._calling])

    def _join(self, keys: Collection[K]) -> _Round[K, A]:
        if not self._rounds or len(self._rounds[-1].keys) + len(keys) > self._bounds.keys_per_call:
            self._rounds.append(_Round())
        round_ = self._rounds[-1]
        before = len(round_.keys)
        round_.keys.update(dict.fromkeys(keys))
        round_.callers += 1
        self._waiting_keys += len(round_.keys) - before
        return round_

    async def _call_until_all_are_answered(self) -> None:
        given_up = Unavailable("the service is stopping")
        try:
            company = False
            while self._rounds:
                round_ = self._rounds[0]
                if len(self._rounds) == 1:
                    await wait_for_company(round_, seconds=self._bounds.gathering_seconds if company else 0)
                self._rounds.popleft()
                company = round_.callers > 1
                self._waiting_keys -= len(round_.keys)
                answer: A | GridwrightError = given_up
                try:
                    self.calls += 1
                    answer = await self._call(round_.keys.keys())
                except GridwrightError as error:
                    answer = error
                finally:
                    round_.answer.set_result(answer)
        finally:
            while self._rounds:
                self._rounds.popleft().answer.set_result(given_up)
            self._waiting_keys = 0


class _Round(Generic[K, A]):
    """What travels in one call, and what comes back."""

    def __init__(self) -> None:
        #: In the order in which they came, each once.
        self.keys: dict[K, None] = {}
        self.callers = 0
        self.answer: asyncio.Future[A | GridwrightError] = asyncio.get_running_loop().create_future()

    async def answered(self) -> A:
        # The others who wait for the same are not to suffer when one caller leaves.
        answer = await asyncio.shield(self.answer)
        if isinstance(answer, GridwrightError):
            raise answer
        return answer
