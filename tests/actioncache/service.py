"""An action cache as a service, with a CAS over gRPC behind it, and what its clients say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.digest import Digest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.settings import Address, validate_settings
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright.wire.rpc import Channel
from gridwright.wire.server import ServerOptions, serving
from gridwright_actioncache.app import open_app
from gridwright_actioncache.config import ActionCacheFile
from tests.actioncache.cas import FakeCas
from tests.actioncache.documents import message


@asynccontextmanager
async def serving_cas(cas: FakeCas, run: Path) -> AsyncIterator[None]:
    listen = [Address.parse(f"unix:{run}/cas.sock")]
    async with serving(cas.servicers, ServerOptions(listen, LoopbackAuthenticator(), CollectorRegistry())):
        yield


@asynccontextmanager
async def actioncache(run: Path, *, local_operators: bool = True) -> AsyncIterator[Channel]:
    data = {
        "auth": {"local_operators": local_operators},
        "instances": [
            {"name": "main"},
            {"name": "team/b", "digest_functions": ["sha256"]},
            {"name": "strict", "strict_results": True},
            {"name": "ours", "result_writers": "scheduler"},
            {"name": "frozen", "read_only": True, "execution": False},
        ],
        "endpoints": {"cas": f"unix:{run}/cas.sock"},
        "actioncache": {
            "listen": f"unix:{run}/actioncache.sock",
            "admin": f"unix:{run}/admin.sock",
            "store": {"completeness_checking": {"backend": {"lmdb": {"path": f"{run}/results", "max_bytes": "10MiB"}}}},
        },
    }
    settings = validate_settings(ActionCacheFile, data, source="the test")
    async with open_app(settings, Process()), GrpcChannel(f"unix:{run}/actioncache.sock") as channel:
        yield channel


async def get(
    client: ActionCacheClient,
    action: Digest,
    instance: str = "main",
    timeout: float = 20,
    function: int = 0,
    inline: Mapping[str, object] | None = None,
) -> pb.ActionResult:
    request = pb.GetActionResultRequest(instance_name=instance, action_digest=message(action), **(inline or {}))  # type: ignore[arg-type]
    request.digest_function = function  # type: ignore[assignment]  # the same numbers
    return await client.get_action_result(request, timeout=timeout)


async def update(
    client: ActionCacheClient, action: Digest, result: pb.ActionResult, instance: str = "main"
) -> pb.ActionResult:
    request = pb.UpdateActionResultRequest(instance_name=instance, action_digest=message(action), action_result=result)
    return await client.update_action_result(request, timeout=20)


def result_of(*files: Digest, exit_code: int = 0) -> pb.ActionResult:
    result = pb.ActionResult(exit_code=exit_code)
    result.execution_metadata.worker = "worker-1"
    for index, digest in enumerate(files):
        result.output_files.add(path=f"out/{index}", digest=message(digest))
    return result
