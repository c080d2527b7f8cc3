"""Stores as operators nest them: what each promises, the nest promises, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from gridwright_actioncache.results.fast_slow import FastSlowResultStore
from gridwright_actioncache.results.filesystem import FilesystemResultStore
from gridwright_actioncache.results.memory import MemoryResultStore
from gridwright_actioncache.results.noop import NoopResultStore
from gridwright_actioncache.results.size_partitioned import SizePartitionedResultStore
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import DocumentsContract, ReplacingContract, an_action
from tests.actioncache.documents import message
from tests.actioncache.result_stores import CountingResultStore, a_memory


@asynccontextmanager
async def main_store(path: Path, cas: MemoryStore, clock: FakeClock) -> AsyncIterator[ResultStore]:
    """Open the AC_MAIN_STORE that users of NativeLink bring along."""
    memory = MemoryResultStore(policy=EvictionPolicy(max_bytes=100_000_000, max_count=150_000), clock=clock)
    fast = SizePartitionedResultStore(memory, NoopResultStore(), size_bytes=1000)
    files = FilesystemResultStore.opened(
        path / "content_path-ac",
        clock,
        policy=EvictionPolicy(max_bytes=1_000_000_000),
        temp_path=path / "tmp_path-ac",
        durable=False,
    )
    async with files as slow:
        checking = CompletenessCheckingStore(
            FastSlowResultStore(fast, slow, clock), dict.fromkeys(["main", "a/b", ""], cas)
        )
        yield checking
        await checking.aclose()


class TestMainStore(ReplacingContract, DocumentsContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ResultStore]:
        async with main_store(tmp_path, MemoryStore(max_bytes=10**9), FakeClock()) as store:
            yield store


async def test_what_the_main_store_keeps_outlives_it_and_is_found_while_its_outputs_are_there(tmp_path: Path) -> None:
    clock, cas = FakeClock(), MemoryStore(max_bytes=10**9)
    output = DigestFunction.SHA256.digest(b"output")
    await write_blob(cas, output, b"output")
    small, large = an_action(), an_action()
    results = {
        action: pb.ActionResult(
            output_files=[pb.OutputFile(path=f"out{number}", digest=message(output)) for number in range(count)]
        ).SerializeToString()
        for action, count in ((small, 1), (large, 50))
    }
    async with main_store(tmp_path, cas, clock) as store:
        for action, result in results.items():
            await store.put("main", action, result)
    async with main_store(tmp_path, cas, clock) as store:
        assert await store.get_many("main", list(results)) == results
        assert await store.get_many("main", list(results)) == results
    async with main_store(tmp_path, MemoryStore(max_bytes=10**9), clock) as store:
        assert await store.get_many("main", list(results)) == {}


DOWN = Unavailable("down")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "break writes", "break all", "mend", "wait"]),
        st.integers(0, 1),
        st.sampled_from([1000, 3000]),
    ),
    min_size=3,
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
@example(steps=[("put", 0, 1000), ("break writes", 0, 0), ("put", 0, 1000), ("mend", 0, 0)])
@example(steps=[("put", 0, 1000), ("break all", 0, 0), ("put", 0, 3000), ("mend", 0, 0)])
async def test_whatever_a_small_and_failing_fast_side_does_the_last_write_is_what_is_found(
    steps: list[tuple[str, int, int]],
) -> None:
    clock = FakeClock()
    memory = CountingResultStore(MemoryResultStore(policy=EvictionPolicy(max_bytes=1500), clock=clock))
    fast = SizePartitionedResultStore(memory, NoopResultStore(), size_bytes=1024)
    store = FastSlowResultStore(fast, a_memory(), clock)
    actions = [DigestFunction.SHA256.digest(bytes([number])) for number in range(2)]
    expected: dict[Digest, bytes] = {}
    for number, (step, index, size_bytes) in enumerate(steps):
        action = actions[index]
        match step:
            case "put":
                expected[action] = number.to_bytes(2) + bytes(size_bytes)
                await store.put("main", action, expected[action])
            case "remove" if not memory.errors:
                expected.pop(action, None)
                await store.remove("main", [action])
            case "break writes":
                memory.errors = {"put": DOWN}
            case "break all":
                memory.errors = {"get_many": DOWN, "put": DOWN, "remove": DOWN}
            case "mend":
                memory.errors = {}
            case "wait":
                clock.advance(400)
        assert await store.get_many("main", actions) == expected
