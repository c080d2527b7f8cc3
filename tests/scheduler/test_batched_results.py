"""BatchedResults: few calls, and for each caller what a single one would have brought."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gridwright.digest import DigestFunction
from gridwright.errors import GridwrightError, NotFound, ResourceExhausted, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.gridwright.actioncache.v1 import batches_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.batches_rpc import ActionCacheBatches
from gridwright.wire.call import Call
from gridwright.wire.digests import digest_message
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.statuses import ok_status, status_message
from gridwright_scheduler.batched_results import BatchedResults
from tests.scheduler.neighbours import FakeActionCache


class FakeBatches(ActionCacheBatches):
    """Batches of a cache in memory, some of whose questions can be made to fail."""

    def __init__(self, single: FakeActionCache) -> None:
        self._single = single
        self.sizes: list[int] = []
        self.failing: GridwrightError | None = None

    async def get_many(self, request: pb.GetManyRequest, call: Call) -> pb.GetManyResponse:
        self.sizes.append(len(request.requests))
        answers = pb.GetManyResponse()
        for one in request.requests:
            found = self._single.results.get((one.instance_name, one.action_digest.hash))
            error = self.failing or (NotFound("no such result") if found is None else None)
            answers.answers.add(status=status_message(error) if error else None, action_result=found)
        return answers

    async def update_many(self, request: pb.UpdateManyRequest, call: Call) -> pb.UpdateManyResponse:
        self.sizes.append(len(request.requests))
        if self.failing:
            return pb.UpdateManyResponse(statuses=[status_message(self.failing)] * len(request.requests))
        for one in request.requests:
            await self._single.update_action_result(one, call)
        return pb.UpdateManyResponse(statuses=[ok_status()] * len(request.requests))


@pytest.fixture
def single() -> FakeActionCache:
    return FakeActionCache()


@pytest.fixture
def batches(single: FakeActionCache) -> FakeBatches:
    return FakeBatches(single)


@pytest.fixture
def results(single: FakeActionCache, batches: FakeBatches) -> BatchedResults:
    return BatchedResults(InProcessChannel(single, batches), lookup_seconds=2, write_seconds=2)


def updates(count: int, size_bytes: int = 10) -> Sequence[re.UpdateActionResultRequest]:
    return [
        re.UpdateActionResultRequest(
            instance_name="main",
            action_digest=digest_message(DigestFunction.SHA256.digest(b"%d" % number)),
            action_result=re.ActionResult(exit_code=number, stdout_raw=bytes(size_bytes)),
        )
        for number in range(count)
    ]


def question(update: re.UpdateActionResultRequest) -> re.GetActionResultRequest:
    return re.GetActionResultRequest(instance_name=update.instance_name, action_digest=update.action_digest)


async def test_many_at_once_are_few_calls_and_each_gets_its_own(results: BatchedResults, batches: FakeBatches) -> None:
    sent = updates(200)
    await asyncio.gather(*(results.update(one) for one in sent))
    assert len(batches.sizes) <= 8
    found = await asyncio.gather(*(results.get(question(one)) for one in sent))
    assert [one.exit_code for one in found] == list(range(200))
    assert len(batches.sizes) <= 16
    assert max(batches.sizes) <= 64


async def test_a_miss_is_one_for_its_caller_alone(results: BatchedResults) -> None:
    known, unknown = updates(2)
    await results.update(known)
    found = await asyncio.gather(results.get(question(known)), results.get(question(unknown)), return_exceptions=True)
    assert isinstance(found[0], re.ActionResult)
    assert isinstance(found[1], NotFound)


async def test_a_cache_that_knows_no_batches_gets_single_calls(single: FakeActionCache) -> None:
    results = BatchedResults(InProcessChannel(single), lookup_seconds=2, write_seconds=2)
    sent = updates(20)
    await asyncio.gather(*(results.update(one) for one in sent))
    found = await asyncio.gather(*(results.get(question(one)) for one in sent))
    assert [one.exit_code for one in found] == list(range(20))
    assert single.lookups == 20


async def test_a_large_result_travels_alone(results: BatchedResults, batches: FakeBatches) -> None:
    [large] = updates(1, size_bytes=100_000)
    await results.update(large)
    assert batches.sizes == []
    assert (await results.get(question(large))).stdout_raw == bytes(100_000)


@pytest.mark.parametrize("error", [ResourceExhausted("too much"), Unavailable("not now")])
async def test_what_a_batch_could_not_do_a_single_call_is_tried_for(
    results: BatchedResults, batches: FakeBatches, single: FakeActionCache, error: GridwrightError
) -> None:
    [update] = updates(1)
    batches.failing = error
    await results.update(update)
    assert (await results.get(question(update))).exit_code == 0
    assert single.lookups == 1
