"""`gridwright ac` against a whole grid: through the gateway, and on the directory of its action cache."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from gridwright.auth.authenticator import SERVICE_HEADER
from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperatorClient
from gridwright.wire.digests import digest_message
from gridwright.wire.grpc_channel import GrpcChannel
from tests.journeys.grid import Grid


def gridwright(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gridwright_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def updated(grid: Grid, headers: tuple[tuple[str, str], ...] = ()) -> pb.Digest:
    """Write a result as a client does; return the digest of its action."""
    action = digest_message(DigestFunction.SHA256.digest(uuid4().bytes))
    result = pb.ActionResult()
    result.execution_metadata.worker = f"worker-of-{action.hash[:8]}"
    async with GrpcChannel(grid.endpoint) as channel:
        request = pb.UpdateActionResultRequest(instance_name="main", action_digest=action, action_result=result)
        await ActionCacheClient(channel).update_action_result(request, timeout=30, metadata=headers)
    return action


async def test_a_client_cannot_pretend_to_be_the_scheduler(grid: Grid) -> None:
    action = await updated(grid, ((SERVICE_HEADER, "scheduler"),))
    async with GrpcChannel(grid.endpoint) as channel:
        request = operator_pb2.ExplainRequest(instance_name="main", action_digest=action)
        explained = await ActionCacheOperatorClient(channel).explain(request, timeout=30)
    assert (explained.provenance.subject, explained.provenance.role) == ("anonymous", "writer")


async def test_a_result_is_looked_at_through_the_gateway_and_revoked_in_the_directory(grid: Grid) -> None:
    action = await updated(grid)
    digest, worker = f"{action.hash}/{action.size_bytes}", f"worker-of-{action.hash[:8]}"
    assert gridwright("ac", "why", digest, "--remote", grid.remote).stdout.startswith("hit\nwritten by anonymous")
    refused = gridwright("ac", "purge", "--worker", worker, "--remote", grid.remote)
    assert (refused.returncode, "lacks the role 'admin'" in refused.stderr) == (122, True)
    directory = str(Path(grid.data) / "actioncache")
    purged = gridwright("ac", "purge", "--worker", worker, "--since", "1h", "--directory", directory)
    assert (purged.returncode, purged.stdout.startswith("removed 1 result of ")) == (0, True), purged.stderr
    assert gridwright("ac", "why", digest, "--remote", grid.remote).returncode == 1


async def test_what_the_grid_has_run_was_written_by_its_scheduler(grid: Grid, tmp_path: Path) -> None:
    text = str(uuid4())
    ended = gridwright("execute", "--verbose", "--remote", grid.remote, "--", "/bin/echo", text)
    assert ended.stdout == f"{text}\n", ended.stderr
    purge = ("ac", "purge", "--subject", "scheduler", "--since", "5m", "--dry-run")
    counted = gridwright(*purge, "--directory", str(Path(grid.data) / "actioncache"))
    assert counted.stdout.startswith("would remove ")
    assert not counted.stdout.startswith("would remove 0 ")
