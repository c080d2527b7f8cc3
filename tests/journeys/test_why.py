"""`gridwright why`, of a grid that runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from uuid import uuid4

from google.longrunning import operations_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ExecutionClient
from gridwright.protos.google.longrunning.operations_rpc import OperationsClient
from gridwright.wire.digests import digest_message
from tests.journeys.build_client import Action, BuildClient
from tests.journeys.grid import Grid


async def test_it_names_the_property_that_no_worker_has(grid: Grid, client: BuildClient) -> None:
    action = Action(["/bin/true", str(uuid4())], platform=[("ISA", "vax")])
    digest, blobs = action.documents()
    await client.upload(blobs)
    request = pb.ExecuteRequest(instance_name=client.instance, action_digest=digest_message(digest))
    name = (await anext(ExecutionClient(client.channel).execute(request, timeout=60))).name
    assert "no worker has the platform property ISA=vax: workers offer " in await why(grid, name)
    cancelling = operations_pb2.CancelOperationRequest(name=name)
    await OperationsClient(client.channel).cancel_operation(cancelling, timeout=30)
    assert (await why(grid, name)).endswith(": it was cancelled\n")


async def why(grid: Grid, operation: str) -> str:
    """Return what the command says."""
    admin = f"unix:{grid.data}/run/scheduler-admin.sock"
    command = [sys.executable, "-m", "gridwright_cli", "why", operation, "--admin", admin]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout
