"""Questions of many callers travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Set

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted, Unavailable
from gridwright.shared_calls import CallBounds
from gridwright_actioncache.results.questions import CoalescedQuestions


class SlowCas(MemoryStore):
    """Answers when it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(max_bytes=10**6)
        self.asked: list[Set[Digest]] = []
        self.arrived = asyncio.Event()
        self.up = asyncio.Event()
        self.error: Exception | None = None

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        self.asked.append(set(digests))
        self.arrived.set()
        await self.up.wait()
        if self.error is not None:
            raise self.error
        return await super().missing(digests)


def blob(number: int) -> Digest:
    return DigestFunction.SHA256.digest(str(number).encode())


async def test_each_caller_hears_of_its_own_blobs() -> None:
    cas = MemoryStore(max_bytes=1000)
    await write_blob(cas, blob(1), b"1")
    questions = CoalescedQuestions(cas)
    asked = [{blob(1)}, {blob(1), blob(2)}, {blob(3)}]
    assert await asyncio.gather(*map(questions.missing, asked)) == [set(), {blob(2)}, {blob(3)}]
    assert await questions.missing(set()) == set()


async def test_a_hundred_callers_need_two_calls() -> None:
    cas = SlowCas()
    questions = CoalescedQuestions(cas)
    first = asyncio.create_task(questions.missing({blob(0)}))
    await cas.arrived.wait()
    others = [asyncio.create_task(questions.missing({blob(number), blob(0)})) for number in range(1, 100)]
    await asyncio.sleep(0)
    cas.up.set()
    await asyncio.gather(first, *others)
    assert [len(asked) for asked in cas.asked] == [1, 100]
    assert questions.calls == 2


async def test_callers_who_come_a_few_turns_of_the_loop_apart_need_one_call() -> None:
    """As they do when the loop is busy with others."""
    cas = SlowCas()
    cas.up.set()
    questions = CoalescedQuestions(cas)
    asking = []
    for number in range(10):
        asking.append(asyncio.create_task(questions.missing({blob(number)})))
        for _ in range(3):
            await asyncio.sleep(0)
    await asyncio.gather(*asking)
    assert [len(asked) for asked in cas.asked] == [10]


async def test_nobody_waits_for_more_than_enough_company() -> None:
    cas = SlowCas()
    questions = CoalescedQuestions(cas)
    asking: list[asyncio.Task[Set[Digest]]] = []
    async with asyncio.timeout(10):
        while not cas.arrived.is_set():
            asking.append(asyncio.create_task(questions.missing({blob(len(asking))})))
            await asyncio.sleep(0)
    assert 32 <= len(cas.asked[0]) < 40
    cas.up.set()
    await asyncio.gather(*asking)


async def test_a_question_is_not_larger_than_one_call_holds() -> None:
    cas = SlowCas()
    cas.up.set()
    questions = CoalescedQuestions(cas, CallBounds(10, 1_000_000, 0.001))
    sets = [{blob(number * 4 + k) for k in range(4)} for number in range(5)]
    assert await asyncio.gather(*map(questions.missing, sets)) == sets
    assert [len(asked) for asked in cas.asked] == [8, 8, 4]


async def test_a_cas_that_cannot_answer_is_unavailable_for_all_and_asked_again_later() -> None:
    cas = SlowCas()
    cas.up.set()
    cas.error = ResourceExhausted("overloaded")
    questions = CoalescedQuestions(cas)
    outcomes = await asyncio.gather(*(questions.missing({blob(k)}) for k in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    cas.error = None
    assert await questions.missing({blob(1)}) == {blob(1)}


async def test_something_unexpected_leaves_nobody_waiting() -> None:
    cas = SlowCas()
    cas.error = ZeroDivisionError()
    questions = CoalescedQuestions(cas)
    first = asyncio.create_task(questions.missing({blob(0)}))
    await cas.arrived.wait()
    second = asyncio.create_task(questions.missing({blob(1)}))
    await asyncio.sleep(0)
    cas.up.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert questions._shared._calling is not None
    assert isinstance(questions._shared._calling.exception(), ZeroDivisionError)


async def test_a_caller_that_leaves_does_not_disturb_the_others() -> None:
    cas = SlowCas()
    questions = CoalescedQuestions(cas)
    leaving = asyncio.create_task(questions.missing({blob(0)}))
    staying = asyncio.create_task(questions.missing({blob(0)}))
    await cas.arrived.wait()
    leaving.cancel()
    cas.up.set()
    assert await staying == {blob(0)}


async def test_waiting_questions_are_bounded() -> None:
    cas = SlowCas()
    questions = CoalescedQuestions(cas, CallBounds(10_000, 10, 0.001))
    tasks = [asyncio.create_task(questions.missing({blob(0)}))]
    await cas.arrived.wait()
    tasks.append(asyncio.create_task(questions.missing({blob(number) for number in range(8)})))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await questions.missing({blob(number) for number in range(8, 12)})
    cas.up.set()
    await asyncio.gather(*tasks)


async def test_the_end_of_the_service_gives_up_what_is_on_its_way() -> None:
    cas = SlowCas()
    questions = CoalescedQuestions(cas)
    waiting = asyncio.create_task(questions.missing({blob(0)}))
    await cas.arrived.wait()
    await questions.aclose()
    with pytest.raises(Unavailable):
        await waiting
