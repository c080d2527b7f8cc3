"""What a scheduler does with an action cache for many actions at once: the same as with single calls."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2

from gridwright.auth.authenticator import SERVICE_HEADER
from gridwright.digest import Digest
from gridwright.errors import NotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.protos.gridwright.actioncache.v1 import batches_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.batches_rpc import ActionCacheBatchesClient
from gridwright.wire.rpc import Channel, Metadata
from gridwright_actioncache.servicers import batches
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action
from tests.actioncache.documents import a_blob, message
from tests.actioncache.service import get, result_of, update

_AS_SCHEDULER: Metadata = ((SERVICE_HEADER, "scheduler"),)


async def get_many(channel: Channel, *actions: Digest, instance: str = "main") -> list[pb.GetManyResponse.Answer]:
    questions = [re.GetActionResultRequest(instance_name=instance, action_digest=message(one)) for one in actions]
    answer = await ActionCacheBatchesClient(channel).get_many(pb.GetManyRequest(requests=questions), timeout=20)
    return list(answer.answers)


async def update_many(channel: Channel, *updates: re.UpdateActionResultRequest, metadata: Metadata = ()) -> list[int]:
    request = pb.UpdateManyRequest(requests=updates)
    answer = await ActionCacheBatchesClient(channel).update_many(request, timeout=20, metadata=metadata)
    return [status.code for status in answer.statuses]


def an_update(action: Digest, instance: str = "main", exit_code: int = 0) -> re.UpdateActionResultRequest:
    result = result_of(exit_code=exit_code)
    return re.UpdateActionResultRequest(instance_name=instance, action_digest=message(action), action_result=result)


async def test_each_question_is_answered_in_its_place(channel: Channel, cas: FakeCas) -> None:
    output = await cas.keep(b"an output")
    present, absent, incomplete = an_action(), an_action(), an_action()
    await update(ActionCacheClient(channel), present, result_of(output))
    await update(ActionCacheClient(channel), incomplete, result_of(a_blob()))
    answers = await get_many(channel, absent, present, incomplete, present)
    codes = [answer.status.code for answer in answers]
    assert codes == [code_pb2.NOT_FOUND, code_pb2.OK, code_pb2.NOT_FOUND, code_pb2.OK]
    assert answers[1].action_result == answers[3].action_result == result_of(output)


async def test_each_update_is_stored_or_refused_by_itself(channel: Channel) -> None:
    kept, refused = an_action(), an_action()
    bad = re.UpdateActionResultRequest(instance_name="main", action_digest=message(refused))
    assert await update_many(channel, an_update(kept, exit_code=3), bad) == [code_pb2.OK, code_pb2.INVALID_ARGUMENT]
    client = ActionCacheClient(channel)
    assert (await get(client, kept)).exit_code == 3
    with pytest.raises(NotFound):
        await get(client, refused)


async def test_a_batch_may_write_only_what_its_caller_may(channel: Channel) -> None:
    updates = [an_update(an_action(), instance="ours"), an_update(an_action(), instance="frozen")]
    assert await update_many(channel, *updates) == [code_pb2.PERMISSION_DENIED] * 2
    assert (await update_many(channel, *updates, metadata=_AS_SCHEDULER))[0] == code_pb2.OK


async def test_an_unknown_instance_spoils_only_its_own_question(channel: Channel) -> None:
    [answer] = await get_many(channel, an_action(), instance="nobody")
    assert answer.status.code == code_pb2.INVALID_ARGUMENT


async def test_what_does_not_fit_into_the_answer_can_be_asked_for_alone(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [an_action() for _ in range(3)]
    assert await update_many(channel, *map(an_update, actions)) == [code_pb2.OK] * 3
    monkeypatch.setattr(batches, "_MAX_ANSWER_BYTES", 1)
    codes = [answer.status.code for answer in await get_many(channel, *actions)]
    assert codes == [code_pb2.OK, code_pb2.RESOURCE_EXHAUSTED, code_pb2.RESOURCE_EXHAUSTED]
