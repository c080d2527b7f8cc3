"""Execute and WaitExecution, as clients see them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.rpc import code_pb2, error_details_pb2

from gridwright.digest import DigestFunction
from gridwright.errors import (
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    OperationNotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from tests.scheduler.grid import Client, Grid, metadata_of, open_grid, response_of, stage_of
from tests.scheduler.neighbours import SHA256
from tests.scheduler.scripted_worker import ScriptedWorker, digest_of

STAGE = pb.ExecutionStage


async def test_an_action_goes_from_the_queue_through_a_worker_to_its_client(grid: Grid) -> None:
    """EXE-01 to EXE-08, EMD-01 to EMD-05, ERR-17, ERR-18, POL-12."""
    digest = await grid.client.upload("true")
    stream = grid.client.execute(digest)
    first = await stream.next()
    assert stage_of(first) == STAGE.QUEUED
    assert first.name.startswith("main/")
    worker = await grid.worker()
    action = await worker.run(pb.ActionResult(stdout_raw=b"hello"))
    response = await stream.response()
    assert action.command_digest.hash
    assert stream.stages == ["QUEUED", "EXECUTING", "COMPLETED"]
    assert {message.name for message in stream.seen} == {first.name}
    assert all(message.WhichOneof("result") is None for message in stream.seen[:-1])
    assert all(metadata_of(message).action_digest == digest_message(digest) for message in stream.seen)
    assert all(metadata_of(message).digest_function == pb.DigestFunction.SHA256 for message in stream.seen)
    assert metadata_of(stream.seen[1]).partial_execution_metadata.worker == "worker-1"
    assert response.HasField("status")
    assert response.status.code == code_pb2.OK
    assert response.result.stdout_raw == b"hello"
    assert not response.cached_result
    assert response.result.execution_metadata.worker == "worker-1"
    assert response.result.execution_metadata.queued_timestamp.seconds > 0
    assert grid.cache.results["main", digest.hash] == response.result


async def test_the_worker_gets_the_very_bytes_of_the_client(grid: Grid) -> None:
    action = pb.Action(
        command_digest=digest_message(await grid.cas.keep(pb.Command(arguments=["x"]).SerializeToString())),
        input_root_digest=digest_message(SHA256.empty),
    )
    odd = b"\xa2\x1f\x03abc" + action.SerializeToString()  # an unknown field, and first: no serialiser writes it so
    digest = await grid.cas.keep(odd)
    stream = grid.client.execute(digest)
    worker = await grid.worker()
    [lease] = await worker.take()
    assert digest_of(lease) == digest
    assert worker.lease_metadata[digest.hash].digest_function == pb.DigestFunction.SHA256
    await stream.close()


async def test_a_cached_result_costs_no_worker(grid: Grid, one_replica: None) -> None:
    """EXE-19, EMD-08; the operation can be asked for afterwards."""
    digest = await grid.client.upload("true")
    cached = pb.ActionResult(stdout_raw=b"before")
    cached.execution_metadata.worker = "somebody else"
    grid.cache.results["main", digest.hash] = cached
    stream = grid.client.execute(digest)
    response = await stream.response()
    assert response.cached_result
    assert response.result == cached
    assert stream.stages == ["COMPLETED"]
    assert await grid.client.get(stream.name) == stream.seen[0]
    assert (await grid.client.wait(stream.name).response()).cached_result


async def test_skip_cache_lookup_runs_the_action_again_and_overwrites_the_old_result(grid: Grid) -> None:
    """EXE-16, EXE-18."""
    digest = await grid.client.upload("true")
    grid.cache.results["main", digest.hash] = pb.ActionResult(stdout_raw=b"poison")
    stream = grid.client.execute(digest, skip_cache_lookup=True)
    worker = await grid.worker()
    await worker.run(pb.ActionResult(stdout_raw=b"fresh"))
    response = await stream.response()
    assert not response.cached_result
    assert response.result.stdout_raw == b"fresh"
    assert grid.cache.results["main", digest.hash].stdout_raw == b"fresh"


async def test_an_action_cache_that_is_down_costs_neither_an_answer_nor_a_result(grid: Grid) -> None:
    grid.cache.down = True
    digest = await grid.client.upload("true")
    stream = grid.client.execute(digest)
    worker = await grid.worker()
    await worker.run()
    assert (await stream.response()).status.code == code_pb2.OK


async def test_equal_actions_in_flight_run_once_and_every_client_hears(grid: Grid) -> None:
    """EXE-25, POL-11."""
    digest = await grid.client.upload("true")
    streams = [grid.client.execute(digest) for _ in range(4)]
    names = {(await stream.next()).name for stream in streams}
    assert len(names) == 4
    worker = await grid.worker(capacity=4)
    await worker.run(pb.ActionResult(stdout_raw=b"once"))
    responses = [await stream.response() for stream in streams]
    assert all(response == responses[0] for response in responses)
    assert not responses[0].cached_result
    assert not worker.session.leases


async def test_a_skipping_call_joins_what_has_not_finished_yet(grid: Grid) -> None:
    """EXE-17."""
    digest = await grid.client.upload("true")
    first = grid.client.execute(digest)
    await first.next()
    worker = await grid.worker()
    [lease] = await worker.take()
    second = grid.client.execute(digest, skip_cache_lookup=True)
    assert stage_of(await second.next()) == STAGE.EXECUTING
    worker.finish(lease.id, pb.ActionResult())
    await worker.update()
    assert await first.response() == await second.response()


async def test_actions_that_are_not_to_be_cached_are_not_merged_either(grid: Grid) -> None:
    """EXE-26."""
    digest = await grid.client.upload("true", do_not_cache=True)
    streams = [grid.client.execute(digest) for _ in range(2)]
    worker = await grid.worker()
    for _ in streams:
        await worker.run()
    for stream in streams:
        assert not (await stream.response()).cached_result
    assert not grid.cache.results
    third = grid.client.execute(digest)
    assert stage_of(await third.next()) == STAGE.QUEUED
    await third.close()


async def test_equal_actions_of_two_instances_are_two(grid: Grid) -> None:
    digest = await grid.client.upload("true")
    here, there = grid.client.execute(digest), grid.client.execute(digest, instance_name="other/one")
    assert (await there.next()).name.startswith("other/one/")
    await here.next()
    worker = await grid.worker(instance="other/one", bot_id="elsewhere")
    await worker.run(pb.ActionResult(stdout_raw=b"there"))
    assert (await there.response()).result.stdout_raw == b"there"
    assert here.stages == ["QUEUED"]
    await here.close()


async def test_smaller_priorities_run_first_and_equal_ones_in_their_order(grid: Grid) -> None:
    """EXE-21."""
    order = [10, 0, -10, 0]
    streams = []
    for number, priority in enumerate(order):
        digest = await grid.client.upload("true", str(number))
        stream = grid.client.execute(digest, execution_policy=pb.ExecutionPolicy(priority=priority))
        await stream.next()
        streams.append((digest, stream))
    worker = await grid.worker()
    ran = []
    for _ in order:
        [lease] = await worker.take()
        ran.append(digest_of(lease))
        worker.finish(lease.id, pb.ActionResult())
    await worker.update()
    digests = [digest for digest, _ in streams]
    assert ran == [digests[2], digests[1], digests[3], digests[0]]
    for _, stream in streams:
        await stream.response()


async def test_joining_with_a_smaller_priority_hurries_the_action(grid: Grid) -> None:
    slow, other = await grid.client.upload("slow"), await grid.client.upload("other")
    streams = []
    for digest, priority in ((slow, 5), (other, 0), (slow, -1)):
        streams.append(grid.client.execute(digest, execution_policy=pb.ExecutionPolicy(priority=priority)))
        await streams[-1].next()
    worker = await grid.worker()
    [lease] = await worker.take()
    assert digest_of(lease) == slow
    for stream in streams:
        await stream.close()


async def test_a_failing_command_is_an_answer_that_is_not_cached(grid: Grid) -> None:
    """ERR-10, POL-02."""
    digest = await grid.client.upload("false")
    stream = grid.client.execute(digest)
    worker = await grid.worker()
    await worker.run(pb.ActionResult(exit_code=3, stderr_raw=b"no"))
    response = await stream.response()
    assert response.status.code == code_pb2.OK
    assert response.result.exit_code == 3
    assert not grid.cache.results


async def test_an_action_that_finished_after_the_call_came_is_as_good_as_one_in_flight(grid: Grid) -> None:
    """No second run for a call whose lookup was a moment too early."""
    digest = await grid.client.upload("true")
    grid.cache.down = True  # so that only the queue can know
    first = grid.client.execute(digest)
    worker = await grid.worker()
    await worker.run()
    await first.response()
    again = grid.client.execute(digest)
    assert stage_of(await again.next()) == STAGE.QUEUED  # it came later, so it runs
    await again.close()


async def test_a_client_that_hangs_up_cancels_nothing(grid: Grid) -> None:
    """EXE-10, WEX-01, WEX-03, WEX-05."""
    digest = await grid.client.upload("true")
    stream = grid.client.execute(digest)
    name = (await stream.next()).name
    await stream.close()
    waiters = [grid.client.wait(name) for _ in range(3)]
    for waiter in waiters:
        assert stage_of(await waiter.next()) == STAGE.QUEUED
    await waiters.pop().close()
    worker = await grid.worker()
    await worker.run(pb.ActionResult(stdout_raw=b"still"))
    for waiter in waiters:
        assert (await waiter.response()).result.stdout_raw == b"still"
    late = grid.client.wait(name)
    assert (await late.response()).result.stdout_raw == b"still"
    assert late.stages == ["COMPLETED"]


@pytest.mark.parametrize("name", ["nothing", "main/nothing", "nowhere/at/all", "main/", "x" * 2000])
async def test_waiting_for_an_unknown_operation_is_not_found(grid: Grid, name: str) -> None:
    """WEX-02."""
    with pytest.raises(NotFound):
        await grid.client.wait(name).next()
    assert issubclass(OperationNotFound, NotFound)


async def test_waiting_for_no_name_is_invalid(grid: Grid) -> None:
    """WEX-07."""
    with pytest.raises(InvalidRequest):
        await grid.client.wait("").next()


async def test_an_unknown_instance_is_invalid_and_one_that_only_caches_refuses(grid: Grid) -> None:
    """INS-04, EXE-28."""
    digest = await grid.client.upload("true")
    with pytest.raises(InvalidRequest):
        await grid.client.execute(digest, instance_name="nope").next()
    with pytest.raises(PermissionDenied):
        await grid.client.execute(digest, instance_name="cache-only").next()


async def test_the_empty_instance_name_is_the_first_instance(grid: Grid) -> None:
    digest = await grid.client.upload("true")
    stream = grid.client.execute(digest, instance_name="")
    name = (await stream.next()).name
    assert name.startswith("main/")
    assert (await grid.client.get(name.removeprefix("main/"))).name == name
    await stream.close()


async def test_an_action_that_is_not_there_is_asked_for(grid: Grid) -> None:
    """EXE-13."""
    with pytest.raises(FailedPrecondition, match="missing"):
        await grid.client.execute(SHA256.digest(b"never uploaded")).next()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x00" * 16])
async def test_what_is_no_action_or_no_command_is_invalid(grid: Grid, garbage: bytes) -> None:
    """EXE-14, ACT-03."""
    with pytest.raises(InvalidRequest):
        await grid.client.execute(await grid.cas.keep(garbage)).next()
    command = digest_message(await grid.cas.keep(garbage))
    with pytest.raises(InvalidRequest):
        await grid.client.execute(await grid.client.upload(command_digest=command)).next()


async def test_an_action_that_is_too_large_is_refused_with_what_to_do(grid: Grid) -> None:
    """Answers to workers hold the Actions of many leases."""
    with pytest.raises(InvalidRequest, match=r"larger than the 65536 bytes .* belong in its Command"):
        await grid.client.execute(await grid.client.upload("true", salt=bytes(64 * 1024))).next()


async def test_an_action_without_documents_is_invalid(grid: Grid) -> None:
    """ACT-01, ACT-02, EXE-11."""
    with pytest.raises(InvalidRequest):
        await grid.client.execute(await grid.cas.keep(pb.Action(salt=b"x").SerializeToString())).next()
    with pytest.raises(InvalidRequest):
        await grid.client.execute(SHA256.digest(b"x")._replace(hash="zz")).next()
    with pytest.raises(InvalidRequest):
        await grid.client.execute(
            await grid.client.upload(command=pb.Command(arguments=["x"], output_paths=["/x"]))
        ).next()
    with pytest.raises(InvalidRequest):
        await grid.client.execute(await grid.client.upload(timeout={"seconds": 10**6})).next()


async def test_a_missing_command_is_reported_with_all_that_is_missing_beside_it(grid: Grid, one_replica: None) -> None:
    """ERR-01 to ERR-04, EXE-12."""
    tree = pb.Directory(
        files=[{"name": "file", "digest": digest_message(SHA256.digest(b"gone"))}],
        directories=[{"name": "dir", "digest": digest_message(SHA256.digest(b"gone directory"))}],
    )
    command = SHA256.digest(b"no such command")
    digest = await grid.client.upload(
        command_digest=digest_message(command),
        input_root_digest=digest_message(await grid.cas.keep(tree.SerializeToString())),
    )
    stream = grid.client.execute(digest)
    response = await stream.response()
    assert stream.stages == ["COMPLETED"]
    assert violations(response) == {
        f"blobs/{command}",
        f"blobs/{SHA256.digest(b'gone')}",
        f"blobs/{SHA256.digest(b'gone directory')}",
    }
    assert (await grid.client.get(stream.name)).done


async def test_inputs_that_a_worker_misses_are_all_reported_at_once(grid: Grid) -> None:
    """ERR-01 to ERR-04: also those in directories that the worker never came to."""
    absent = [SHA256.digest(f"absent {number}".encode()) for number in range(200)]
    inner = pb.Directory(files=[{"name": str(n), "digest": digest_message(one)} for n, one in enumerate(absent)])
    inner_digest = digest_message(await grid.cas.keep(inner.SerializeToString()))
    root = pb.Directory(directories=[{"name": name, "digest": inner_digest} for name in ("a", "b")])
    digest = await grid.client.upload(input_root_digest=digest_message(await grid.cas.keep(root.SerializeToString())))
    stream = grid.client.execute(digest)
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.finish(lease.id, None, code_pb2.NOT_FOUND, "CAS: not found")
    await worker.update()
    assert not worker.session.leases
    response = await stream.response()
    assert violations(response) == {f"blobs/{one}" for one in absent}
    assert not grid.cache.results


async def test_blake3_subjects_name_their_function(grid: Grid) -> None:
    """ERR-05."""
    blake3 = DigestFunction.BLAKE3
    command = blake3.digest(b"no such command")
    digest = await grid.client.upload(function=blake3, command_digest=digest_message(command))
    stream = grid.client.execute(digest)
    response = await stream.response()
    assert violations(response) == {f"blobs/blake3/{command.hash}/{command.size_bytes}"}


@pytest.mark.parametrize("names", [["a/b"], [""], ["."], [".."], ["twice", "twice"]])
async def test_a_tree_that_is_none_is_invalid_once_nothing_is_missing(grid: Grid, names: Sequence[str]) -> None:
    """DIR-01, DIR-02, ERR-03: also when a stock worker only says that something is wrong."""
    gone = SHA256.digest(b"gone")
    inner = pb.Directory(files=[{"name": name, "digest": digest_message(SHA256.digest(b""))} for name in names])
    inner_digest = digest_message(await grid.cas.keep(inner.SerializeToString()))
    root = pb.Directory(
        files=[{"name": "gone", "digest": digest_message(gone)}],
        directories=[{"name": "inner", "digest": inner_digest}],
    )
    digest = await grid.client.upload(input_root_digest=digest_message(await grid.cas.keep(root.SerializeToString())))
    worker = await grid.worker(ours=False)
    for code in (code_pb2.FAILED_PRECONDITION, code_pb2.INVALID_ARGUMENT):
        stream = grid.client.execute(digest)
        [lease] = await worker.take()
        worker.finish(lease.id, None, code_pb2.NOT_FOUND, "CAS: not found")
        assert (await worker.report_until(stream.response())).status.code == code
        await grid.cas.keep(b"gone")


async def test_inputs_that_are_there_after_all_are_another_attempt(grid: Grid) -> None:
    digest = await grid.client.upload("true")
    stream = grid.client.execute(digest)
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.finish(lease.id, None, code_pb2.NOT_FOUND, "CAS: not found")
    await worker.update()
    await worker.run(pb.ActionResult(stdout_raw=b"second try"))
    response = await stream.response()
    assert response.result.stdout_raw == b"second try"
    assert "attempt 2" in response.message


async def test_a_timeout_comes_with_the_partial_result(grid: Grid) -> None:
    """ERR-06 to ERR-09."""
    stream = grid.client.execute(await grid.client.upload("sleep", timeout={"seconds": 1}))
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.finish(lease.id, pb.ActionResult(exit_code=137, stdout_raw=b"so far"), code_pb2.DEADLINE_EXCEEDED, "late")
    await worker.update()
    response = await stream.response()
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED
    assert response.status.message == "execution timeout exceeded"
    assert response.result.stdout_raw == b"so far"
    assert not grid.cache.results


async def test_a_full_queue_says_when_to_try_again(tmp_path: Path, one_replica: None) -> None:
    """ERR-15, ERR-20."""
    async with open_grid(tmp_path, max_queued=2) as grid:
        streams = []
        for number in range(2):
            streams.append(grid.client.execute(await grid.client.upload("true", str(number))))
            await streams[-1].next()
        with pytest.raises(ResourceExhausted) as refused:
            await grid.client.execute(await grid.client.upload("true", "2")).next()
        assert refused.value.retry_after_seconds
        joining = grid.client.execute(await grid.client.upload("true", "0"))
        await joining.next()
        worker = await grid.worker()
        await worker.run()
        room = grid.client.execute(await grid.client.upload("true", "2"))
        assert stage_of(await room.next()) == STAGE.QUEUED
        for stream in (*streams, joining, room):
            await stream.close()


async def test_an_action_that_nobody_can_run_is_refused_with_the_property_that_nobody_has(tmp_path: Path) -> None:
    """EXE-27, PLAT-03."""
    async with open_grid(tmp_path, no_worker_grace_seconds=0.5) as grid:
        worker = await grid.worker(properties=[("ISA", "x86-64")])
        poll = worker.poll()
        stream = grid.client.execute(await grid.client.upload("true", properties={"ISA": "nope"}))
        response = await stream.response()
        assert stream.stages == ["QUEUED", "COMPLETED"]
        assert response.status.code == code_pb2.FAILED_PRECONDITION
        assert "ISA=nope" in response.status.message
        assert not response.status.details
        poll.cancel()


async def test_properties_decide_which_worker_runs_what(grid: Grid) -> None:
    stream = grid.client.execute(
        await grid.client.upload("true", properties=[("OSFamily", "linux"), ("chrootRootDigest", "abc/1")])
    )
    await stream.next()
    plain = await grid.worker("plain", properties=[])
    poll = plain.poll()
    worker = await grid.worker("fitting", properties=[("OSFamily", "linux"), ("OSFamily", "posix")])
    await worker.run()
    assert (await stream.response()).result.execution_metadata.worker == "fitting"
    assert not poll.done()
    poll.cancel()


async def test_settings_say_how_properties_are_matched(tmp_path: Path) -> None:
    kinds = {"cpu_count": "minimum", "memory_kb": "priority"}
    async with open_grid(tmp_path, platform_properties=kinds) as grid:
        wanted = {"cpu_count": "4", "memory_kb": "1000"}
        stream = grid.client.execute(await grid.client.upload("true", properties=wanted))
        await stream.next()
        small = await grid.worker("small", properties=[("cpu_count", "2"), ("memory_kb", "1000")])
        bare = await grid.worker("bare", properties=[("cpu_count", "16")])
        polls = [small.poll(), bare.poll()]
        large = await grid.worker("large", properties=[("cpu_count", "16"), ("memory_kb", "9")])
        await large.run()
        assert (await stream.response()).result.execution_metadata.worker == "large"
        for poll in polls:
            assert not poll.done()
            poll.cancel()


async def test_a_property_that_the_settings_do_not_know_is_refused_with_its_name(tmp_path: Path) -> None:
    """PLAT-03."""
    async with open_grid(tmp_path, platform_properties={"ISA": "exact"}) as grid:
        with pytest.raises(InvalidRequest, match="'zzz' is unknown to this grid, which knows ISA, chrootRootDigest"):
            await grid.client.execute(await grid.client.upload("true", properties={"zzz": "1"})).next()


async def test_an_instance_has_properties_for_actions_that_name_none(tmp_path: Path) -> None:
    async with open_grid(tmp_path, platform_defaults={"main": {"OSFamily": "linux"}}) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        await stream.next()
        other = await grid.worker("other", properties=[("OSFamily", "windows")])
        poll = other.poll()
        worker = await grid.worker("fitting", properties=[("OSFamily", "linux")])
        action = await worker.run()
        assert not action.platform.properties
        assert (await stream.response()).result.execution_metadata.worker == "fitting"
        assert not poll.done()
        poll.cancel()


async def test_a_stream_in_which_nothing_happens_repeats_itself(tmp_path: Path) -> None:
    """EXE-30."""
    async with open_grid(tmp_path, keepalive_seconds=0.1) as grid:
        stream = grid.client.execute(await grid.client.upload("true"))
        first, second = await stream.next(), await stream.next()
        assert first == second
        await stream.close()


async def test_a_scheduler_that_stops_sends_its_clients_away_at_once(grid: Grid) -> None:
    stream = grid.client.execute(await grid.client.upload("true"))
    await stream.next()
    grid.stop()
    with pytest.raises(Unavailable):
        await stream.next()


async def test_five_hundred_actions_at_once_all_come_back(grid: Grid) -> None:
    """EXE-29, and the CAS is asked in bulk."""
    digests = [await grid.client.upload("true", str(number)) for number in range(500)]
    worker = await grid.worker(capacity=8)
    work = asyncio.create_task(work_for_ever(worker))
    responses = await asyncio.gather(*(grid.client.execute(digest).response() for digest in digests))
    assert all(response.status.code == code_pb2.OK for response in responses)
    assert len(grid.cache.results) == 500
    assert grid.cas.read_requests < 1000
    work.cancel()


async def work_for_ever(worker: ScriptedWorker) -> None:
    while True:
        for lease in await worker.take():
            worker.finish(lease.id, pb.ActionResult())


def violations(response: pb.ExecuteResponse) -> set[str]:
    """Return the subjects of the one PreconditionFailure that clients understand (checklist appendix A)."""
    assert response.status.code == code_pb2.FAILED_PRECONDITION
    [detail] = response.status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.PreconditionFailure"
    failure = error_details_pb2.PreconditionFailure.FromString(detail.value)
    assert {violation.type for violation in failure.violations} == {"MISSING"}
    return {violation.subject for violation in failure.violations}


async def test_an_operation_has_the_same_response_for_all_who_ask(grid: Grid) -> None:
    """OPS-02."""
    stream = grid.client.execute(await grid.client.upload("true"))
    worker = await grid.worker()
    await worker.run()
    response = await stream.response()
    assert response_of(await grid.client.get(stream.name)) == response
    assert isinstance(grid.client, Client)
