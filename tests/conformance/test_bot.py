"""The Bots service, as workers speak to it (checklist BOT).

What only a worker can show is shown with one: tests/scheduler/test_stock_worker.py, tests/clients/test_stock_worker.py.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import grpc
import pytest
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from tests.conformance.actions import cancel, metadata_of, response_of, wait_for
from tests.conformance.blobs import fresh
from tests.conformance.bot import POLL_SECONDS, Bot, new_bot, states, unpacked
from tests.conformance.target import Target, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
Stage = pb.ExecutionStage
#: After so long without a word a bot is gone, in a grid that is set up as ours is by default, and some more.
SILENCE_SECONDS = 25.0


async def test_bot_01_a_session_has_a_name_and_time(target: Target) -> None:
    session = await Bot(target).create()
    assert session.name.startswith(target.prefix)
    assert session.expire_time.ToNanoseconds() / 1e9 > time.time()


async def test_bot_02_a_bot_says_who_it_is(target: Target) -> None:
    bot = Bot(target)
    bot.session.bot_id = ""
    with refused(INVALID):
        await bot.create()


async def test_bot_02_the_name_is_the_servers_to_choose(target: Target) -> None:
    bot = Bot(target)
    bot.session.name = f"{target.prefix}mine"
    assert (await bot.create()).name != f"{target.prefix}mine"


async def test_bot_03_a_newer_session_ends_the_older(target: Target) -> None:
    older = await new_bot(target)
    await new_bot(target, bot_id=older.session.bot_id)
    with refused(grpc.StatusCode.ABORTED):
        await older.update()


async def test_bot_04_what_ran_in_the_older_session_is_run_again(target: Target) -> None:
    older = await new_bot(target)
    operation = await older.execute()
    lease = await older.take()
    await older.update()
    newer = Bot(target, properties=[("mark", older.mark)], bot_id=older.session.bot_id)
    await newer.create()
    again = await newer.take()
    assert (again.id != lease.id, again.payload) == (True, lease.payload)
    newer.finish()
    await newer.update()
    assert response_of(await wait_for(target, operation.name)).status.code == 0


async def test_bot_05_a_report_is_about_the_session_that_it_names(target: Target) -> None:
    bot = await new_bot(target)
    request = bot.request()
    request.name = f"{target.prefix}another"
    with refused(INVALID):
        await target.unary("Bots/UpdateBotSession", request, bots_pb2.BotSession)


async def test_bot_06_a_session_that_nobody_knows_goes_on(target: Target) -> None:
    bot = Bot(target)
    bot.session.name = f"{target.prefix}{fresh(8).hex()}"
    bot.session.status = bots_pb2.OK
    await bot.execute()
    await bot.take()
    assert (await bot.update()).name == bot.session.name


@pytest.mark.parametrize(
    "status", [bots_pb2.UNHEALTHY, bots_pb2.HOST_REBOOTING, bots_pb2.BOT_TERMINATING, bots_pb2.INITIALIZING]
)
async def test_bot_07_only_who_is_well_gets_work(target: Target, status: bots_pb2.BotStatus) -> None:
    bot = await new_bot(target, capacity=2)
    first = await bot.execute()
    running = (await bot.take()).id
    waiting = await bot.execute()
    bot.session.status = status
    assert states(await bot.update()) == {running: bots_pb2.ACTIVE}
    for operation in (first, waiting):
        await cancel(target, operation)


async def test_bot_08_a_lease_is_pending_then_active_then_completed(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    while not bot.session.leases:
        await bot.update()
    [lease] = bot.session.leases
    assert lease.state == bots_pb2.PENDING
    lease.state = bots_pb2.ACTIVE
    assert states(await bot.update()) == {lease.id: bots_pb2.ACTIVE}
    bot.finish(pb.ActionResult(stdout_raw=b"said"))
    await bot.update()
    assert response_of(await wait_for(target, operation.name)).result.stdout_raw == b"said"


async def test_bot_09_a_lease_holds_the_action_as_it_was_uploaded(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    lease = await bot.take()
    action = unpacked(lease.payload, pb.Action())
    metadata = unpacked(operation.metadata, pb.ExecuteOperationMetadata())
    assert isinstance(action, pb.Action)
    assert isinstance(metadata, pb.ExecuteOperationMetadata)
    assert action.platform.properties[0].value == bot.mark
    assert len(lease.payload.value) == metadata.action_digest.size_bytes
    await cancel(target, operation)


async def test_bot_10_what_went_wrong_with_the_command_is_in_the_result(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    await bot.take()
    bot.finish(pb.ActionResult(exit_code=3))
    await bot.update()
    response = response_of(await wait_for(target, operation.name))
    assert (response.status.code, response.result.exit_code) == (0, 3)


async def test_bot_10_what_went_wrong_with_the_bot_is_in_the_status(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    await bot.take()
    bot.finish(code=grpc.StatusCode.INVALID_ARGUMENT)
    await bot.update()
    response = response_of(await wait_for(target, operation.name))
    assert response.status.code == INVALID.value[0]


async def test_bot_11_a_cancelled_lease_is_no_longer_told_of(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    await bot.take()
    await bot.update()
    await cancel(target, operation)
    async with asyncio.timeout(5):
        while bot.session.leases:
            await bot.update()


async def test_bot_12_a_lease_never_goes_backwards(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    lease = await bot.take()
    await bot.update()
    bot.session.leases[0].state = bots_pb2.PENDING
    assert states(await bot.update()) == {lease.id: bots_pb2.ACTIVE}
    bot.finish()
    await bot.update()
    bot.session.leases.add(id=lease.id, state=bots_pb2.ACTIVE)
    assert not (await bot.update()).leases
    assert (await wait_for(target, operation.name)).done


async def test_bot_13_a_lease_that_did_not_arrive_is_sent_again(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    lost = await bot.take()
    del bot.session.leases[:]
    assert states(await bot.update()) == {lost.id: bots_pb2.PENDING}
    await cancel(target, operation)


async def test_bot_14_a_completion_may_be_told_again(target: Target) -> None:
    bot = await new_bot(target)
    await bot.execute()
    await bot.take()
    bot.finish()
    again = bots_pb2.BotSession()
    again.CopyFrom(bot.session)
    await bot.update()
    bot.session = again
    assert not (await bot.update()).leases


async def test_bot_15_a_completed_lease_is_not_told_again(target: Target) -> None:
    bot = await new_bot(target)
    first, second = await bot.execute(), await bot.execute()
    done = (await bot.take()).id
    bot.finish()
    answer = await bot.update()
    assert done not in states(answer)
    assert list(states(answer).values()) == [bots_pb2.PENDING]
    assert (await wait_for(target, first.name)).done
    await cancel(target, second)


async def test_bot_16_results_are_not_told_to_who_sent_them(target: Target) -> None:
    bot = await new_bot(target, capacity=2)
    operations = [await bot.execute() for _ in range(2)]
    while len(bot.session.leases) < 2:
        await bot.update()
    bot.session.leases[1].state = bots_pb2.ACTIVE
    bot.finish(pb.ActionResult(stdout_raw=b"said"))
    [kept] = (await bot.update()).leases
    assert not kept.HasField("result")
    await cancel(target, operations[0])
    await cancel(target, operations[1])


async def test_bot_17_a_bot_without_work_is_kept_waiting_till_there_is_some(target: Target) -> None:
    bot = await new_bot(target)
    waiting = asyncio.create_task(bot.update(seconds=20))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    operation = await bot.execute()
    async with asyncio.timeout(5):
        assert len((await waiting).leases) == 1
    await cancel(target, operation)


@pytest.mark.parametrize("seconds", [1.0, POLL_SECONDS])
async def test_bot_18_a_bot_never_waits_till_its_deadline(target: Target, seconds: float) -> None:
    bot = await new_bot(target)
    assert not (await bot.update(seconds=seconds)).leases


async def test_bot_19_each_report_gives_a_bot_more_time(target: Target) -> None:
    bot = await new_bot(target)
    before = bot.session.expire_time.ToNanoseconds()
    assert (await bot.update(seconds=1)).expire_time.ToNanoseconds() > before


async def test_bot_19_what_a_silent_bot_held_is_run_by_another(target: Target) -> None:
    if target.kind == "gateway":
        return  # once is long enough
    silent = await new_bot(target)
    operation = await silent.execute()
    await silent.take()
    await silent.update()
    other = await new_bot(target, properties=[("mark", silent.mark)])
    async with asyncio.timeout(SILENCE_SECONDS):
        await other.update(seconds=SILENCE_SECONDS)
        while not other.session.leases:
            await other.update()
    other.finish()
    await other.update()
    assert response_of(await wait_for(target, operation.name)).status.code == 0


async def test_bot_20_a_lease_lasts_as_long_as_its_session(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    assert not (await bot.take()).HasField("expire_time")
    await cancel(target, operation)


async def test_bot_21_a_bot_has_as_many_leases_as_it_has_room_for(target: Target) -> None:
    bot = await new_bot(target, capacity=3)
    operations = [await bot.execute() for _ in range(4)]
    while len(bot.session.leases) < 3:
        await bot.update()
        for lease in bot.session.leases:
            lease.state = bots_pb2.ACTIVE
    assert len((await bot.update()).leases) == 3
    for operation in operations:
        await cancel(target, operation)


@pytest.mark.parametrize("capacity", ["0", "-1", "many"])
async def test_bot_21_a_capacity_is_a_number(target: Target, capacity: str) -> None:
    bot = Bot(target)
    bot.session.worker.configs[0].value = capacity
    with refused(INVALID):
        await bot.create()


async def test_bot_22_the_first_device_and_the_worker_itself_say_what_there_is(target: Target) -> None:
    bot = Bot(target, properties=[("os", "linux"), ("os", "any")])
    bot.session.worker.properties.add(key="pool", value="large")
    bot.session.worker.devices.add(handle="second").properties.add(key="gpu", value="yes")
    await bot.create()
    vain = await bot.execute(gpu="yes")
    right = await bot.execute(pool="large", os="any")
    [name] = {(await bot.take()).id}
    bot.finish()
    assert name not in states(await bot.update(seconds=1))
    assert response_of(await wait_for(target, right.name)).status.code == 0
    assert not (await operation_of(target, vain.name)).done
    await cancel(target, vain)


async def test_bot_23_any_property_will_do(target: Target) -> None:
    bot = await new_bot(target, properties=[("rack", "7"), ("_x", "1")])
    operation = await bot.execute(rack="7")
    await bot.take()
    await cancel(target, operation)


@pytest.mark.parametrize("path", ["leases", "nope"])
async def test_bot_24_a_report_is_always_the_whole_session(target: Target, path: str) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    request = bot.request()
    request.update_mask.paths.append(path)
    request.bot_session.status = bots_pb2.UNHEALTHY
    answer = await target.unary("Bots/UpdateBotSession", request, bots_pb2.BotSession)
    assert (answer.status, list(answer.leases)) == (bots_pb2.UNHEALTHY, [])
    await cancel(target, operation)


async def test_bot_25_what_a_bot_says_of_a_running_action_is_shown(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    request = pb.WaitExecutionRequest(name=operation.name)
    stream = target.streamed("Execution/WaitExecution", request, operations_pb2.Operation)
    await anext(stream)
    lease = await bot.take()
    said = pb.ExecutedActionMetadata(execution_start_timestamp={"seconds": 12345})
    key = f"partial-execution-metadata-{lease.id.rpartition('/')[2]}-bin"
    telling = asyncio.create_task(bot.update(metadata=[(key, said.SerializeToString())]))
    async with asyncio.timeout(10):
        async for now in stream:
            if metadata_of(now).partial_execution_metadata.execution_start_timestamp.seconds == 12345:
                break
    await telling
    await cancel(target, operation)


async def test_bot_25_a_bot_is_told_the_digest_of_what_it_runs(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    request = bot.request()
    request.bot_session.status = bots_pb2.OK
    trailers = await target.trailers("Bots/UpdateBotSession", request)
    told = pb.ExecuteOperationMetadata.FromString(_bytes(trailers["executeoperationmetadata-bin"]))
    assert told.action_digest == metadata_of(operation).action_digest
    await cancel(target, operation)


async def test_bot_26_the_version_is_the_bots(target: Target) -> None:
    bot = Bot(target)
    bot.session.version = "7"
    assert (await bot.create()).version == "7"
    bot.session.version = "8"
    assert (await bot.update(seconds=1)).version == "8"


async def test_bot_27_events_are_taken(target: Target) -> None:
    bot = await new_bot(target)
    event = bots_pb2.PostBotEventTempRequest(name=bot.session.name, type="ERROR", msg="a disk is full")
    assert await target.unary("Bots/PostBotEventTemp", event, Empty) == Empty()


@pytest.mark.parametrize("method", ["GetTask", "UpdateTaskResult", "AddTaskLog"])
async def test_bot_28_there_are_no_tasks(target: Target, method: str) -> None:
    there = replace(target, channel=target.channel_of("Bots/UpdateBotSession"))
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        await there.raw(f"/google.devtools.remoteworkers.v1test2.Tasks/{method}", b"")


async def test_bot_29_a_lease_is_an_action_and_never_an_order(target: Target) -> None:
    bot = await new_bot(target)
    operation = await bot.execute()
    lease = await bot.take()
    assert lease.payload.type_url == "type.googleapis.com/build.bazel.remote.execution.v2.Action"
    await cancel(target, operation)


async def test_bot_30_of_two_completions_of_an_action_the_first_counts(target: Target) -> None:
    slow = await new_bot(target)
    operation = await slow.execute()
    await slow.take()
    slow.finish(pb.ActionResult(stdout_raw=b"slow"))
    late = slow.session
    quick = Bot(target, properties=[("mark", slow.mark)], bot_id=late.bot_id)  # its new process
    await quick.create()
    await quick.take()
    quick.finish(pb.ActionResult(stdout_raw=b"quick"))
    await quick.update()
    quick.session.leases.extend(late.leases)
    assert not (await quick.update()).leases
    assert response_of(await wait_for(target, operation.name)).result.stdout_raw == b"quick"


async def operation_of(target: Target, name: str) -> operations_pb2.Operation:
    request = operations_pb2.GetOperationRequest(name=name)
    return await target.unary("Operations/GetOperation", request, operations_pb2.Operation)


def _bytes(value: str | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value
