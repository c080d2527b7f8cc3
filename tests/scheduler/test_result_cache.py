"""ResultCache: a cache in trouble is not in the way."""

from __future__ import annotations

import asyncio

from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import Call
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright_scheduler.queue.names import ActionKey
from gridwright_scheduler.result_cache import ResultCache
from tests.scheduler.neighbours import FakeActionCache


class HangingActionCache(FakeActionCache):
    async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
        self.lookups += 1
        await asyncio.Event().wait()
        raise AssertionError


async def test_behind_a_cache_that_hangs_nobody_waits_for_those_before_it() -> None:
    """A lookup that gets no turn in its time is a miss as well, and asks nothing."""
    actions = HangingActionCache()
    cache = ResultCache(InProcessChannel(actions), lookup_seconds=0.3, write_seconds=0.1)
    keys = [ActionKey("main", DigestFunction.SHA256.digest(b"%d" % number)) for number in range(300)]
    found = await asyncio.gather(*(cache.lookup(key, pb.ExecuteRequest()) for key in keys))
    assert found == [None] * len(keys)
    assert 64 <= actions.lookups < len(keys)
    await cache.close()
