from collections.abc import AsyncIterator, Sequence

import pytest
from google.longrunning import operations_pb2

from gridwright.errors import GridwrightError, InternalError, InvalidRequest, NotFound, OperationNotFound, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import Execution
from gridwright.wire.call import Call
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright_cli.execute.following import Follower

REQUEST = pb.ExecuteRequest(instance_name="main", action_digest=pb.Digest(hash="a" * 64, size_bytes=1))
Step = operations_pb2.Operation | GridwrightError


def running(name: str, stage: pb.ExecutionStage.Value = pb.ExecutionStage.EXECUTING) -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name=name)
    operation.metadata.Pack(pb.ExecuteOperationMetadata(stage=stage))
    return operation


def done(name: str) -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name=name, done=True)
    operation.metadata.Pack(pb.ExecuteOperationMetadata(stage=pb.ExecutionStage.COMPLETED))
    operation.response.Pack(pb.ExecuteResponse(message="well"))
    return operation


class ScriptedExecution(Execution):
    """Answers each call with the next of its scripts, and notes what was called."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts = list(scripts)
        self.calls: list[str] = []

    def execute(self, request: pb.ExecuteRequest, call: Call) -> AsyncIterator[operations_pb2.Operation]:
        self.calls.append("execute")
        return self._play()

    def wait_execution(self, request: pb.WaitExecutionRequest, call: Call) -> AsyncIterator[operations_pb2.Operation]:
        self.calls.append(f"wait {request.name}")
        return self._play()

    async def _play(self) -> AsyncIterator[operations_pb2.Operation]:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        for step in script:
            if isinstance(step, GridwrightError):
                raise step
            yield step


async def follow(
    server: ScriptedExecution, patience_seconds: float = 30.0, start_patience_seconds: float = 30.0
) -> tuple[pb.ExecuteResponse, list[int]]:
    stages: list[int] = []
    follower = Follower(
        InProcessChannel(server), patience_seconds=patience_seconds, start_patience_seconds=start_patience_seconds
    )
    response = await follower.execute(REQUEST, lambda name, metadata: stages.append(metadata.stage))
    return response, stages


async def test_each_state_is_heard_and_the_response_returned() -> None:
    server = ScriptedExecution([running("op", pb.ExecutionStage.QUEUED), running("op"), done("op")])
    response, stages = await follow(server)
    assert response.message == "well"
    assert stages == [pb.ExecutionStage.QUEUED, pb.ExecutionStage.EXECUTING, pb.ExecutionStage.COMPLETED]
    assert server.calls == ["execute"]


@pytest.mark.parametrize("breaks", [Unavailable("reset"), InternalError("RST_STREAM")])
async def test_a_broken_stream_is_taken_up_again(breaks: GridwrightError) -> None:
    server = ScriptedExecution([running("op"), breaks], [running("op"), Unavailable("again")], [done("op")])
    response, _ = await follow(server)
    assert response.message == "well"
    assert server.calls == ["execute", "wait op", "wait op"]


async def test_a_stream_that_ends_before_the_operation_is_taken_up_again() -> None:
    server = ScriptedExecution([running("op")], [done("op")])
    await follow(server)
    assert server.calls == ["execute", "wait op"]


async def test_an_operation_that_the_server_forgot_is_started_again() -> None:
    server = ScriptedExecution([running("op"), Unavailable("reset")], [OperationNotFound("op")], [done("new")])
    await follow(server)
    assert server.calls == ["execute", "wait op", "execute"]


async def test_a_server_that_is_away_is_waited_for_and_then_named() -> None:
    server = ScriptedExecution([running("op"), Unavailable("reset")], [Unavailable("nobody there")])
    with pytest.raises(Unavailable, match="nobody there"):
        await follow(server, patience_seconds=0.5)


async def test_before_an_operation_has_begun_there_is_less_patience() -> None:
    with pytest.raises(Unavailable, match="nobody there"):
        await follow(ScriptedExecution([Unavailable("nobody there")]), start_patience_seconds=0.5)
    late = ScriptedExecution([running("op"), Unavailable("reset")], [Unavailable("restarting")], [done("op")])
    response, _ = await follow(late, start_patience_seconds=0.0)
    assert response.message == "well"


async def test_a_fault_of_the_server_that_stays_is_not_tried_for_ever() -> None:
    server = ScriptedExecution([InternalError("broken")])
    with pytest.raises(InternalError, match="broken"):
        await follow(server)
    assert len(server.calls) == 4


async def test_a_stream_that_says_the_same_and_breaks_is_not_taken_up_for_ever() -> None:
    server = ScriptedExecution([running("op"), InternalError("broken")])
    with pytest.raises(InternalError, match="broken"):
        await follow(server)


@pytest.mark.parametrize("error", [InvalidRequest("no such instance"), NotFound("no such method")])
async def test_a_refusal_is_final(error: GridwrightError) -> None:
    server = ScriptedExecution([error])
    with pytest.raises(type(error)):
        await follow(server)
    assert server.calls == ["execute"]


async def test_an_operation_that_ends_without_a_response_is_an_error() -> None:
    server = ScriptedExecution([operations_pb2.Operation(name="op", done=True)])
    with pytest.raises(InternalError, match="without a response"):
        await follow(server)
