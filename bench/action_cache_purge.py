"""How long it takes to revoke the results of a worker, or all of an evening, in an action cache of many."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.cas_process import INSTANCE
from bench.documents import digest_of
from bench.report import print_table
from bench.service_process import ServiceProcess, own_service
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperatorClient
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_actioncache.results.lmdb_store import LmdbStore
from gridwright_actioncache.results.provenance import Provenance, with_provenance

_MODULE = "gridwright_actioncache"
_SETTINGS = f"""\
auth: {{local_operators: true}}
endpoints: {{cas: "unix:none.sock"}}
actioncache:
  listen: unix:actioncache.sock
  admin: unix:admin-{_MODULE}-0.sock
  store: {{lmdb: {{path: results}}}}
"""
_OUTPUTS = 5
#: One of them is to blame.
_WORKERS = 10
_PUT_AT_ONCE = 1_000
_MAX_BYTES = 2**34
_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Purge:
    """What it came to."""

    answer: operator_pb2.PurgeResponse
    seconds: float
    cpu_seconds: float


_Purging = Callable[[str], Awaitable[_Purge]]


async def bench_action_cache_purge(data: Path, *, results: int) -> None:
    """Fill LMDB with so many *results*, revoke those of one worker in ten, then the rest; print what it took.

    Once by the command that works on the directory, once by a service that is asked to.
    """
    rows = []
    for way in ("directory", "service"):
        with tempfile.TemporaryDirectory(prefix="purge-", dir=data) as directory:
            path = Path(directory)
            await _fill(path / "results", results)
            async with AsyncExitStack() as stack:
                purge = _in_directory(path)
                if way == "service":
                    service = await stack.enter_async_context(own_service(_MODULE, path, _SETTINGS))
                    purge = _by_service(path, service)
                for what, worker in (("one worker of ten", "worker-0"), ("all the others", "")):
                    done = await purge(worker)
                    rows.append(
                        {
                            "way": way,
                            "what": what,
                            "examined": f"{done.answer.examined:,}",
                            "removed": f"{done.answer.removed:,}",
                            "seconds": f"{done.seconds:.1f}",
                            "processor s": f"{done.cpu_seconds:.1f}",
                        }
                    )
    print_table(f"Revoking in LMDB, {results:,} results with {_OUTPUTS} outputs each", rows)


def _in_directory(path: Path) -> _Purging:
    """Return what ``gridwright ac purge DIRECTORY`` does; its time includes that of its start."""

    async def purge(worker: str) -> _Purge:
        command = [sys.executable, "-m", "gridwright_actioncache.maintenance", "purge", "results"]
        command += ["--instance", INSTANCE, *(["--worker", worker] if worker else ["--since", "0"])]
        return await asyncio.to_thread(_timed, command, path)

    return purge


def _timed(command: Sequence[str], path: Path) -> _Purge:
    begun, before = time.perf_counter(), os.times()
    ended = subprocess.run(command, cwd=path, stdout=subprocess.PIPE, text=True, check=True)
    seconds, after = time.perf_counter() - begun, os.times()
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return _Purge(_answer_in(ended.stdout), seconds, cpu_seconds)


def _by_service(path: Path, service: ServiceProcess) -> _Purging:
    """Return what a client of the service does, and the processor time of the service."""

    async def purge(worker: str) -> _Purge:
        request = operator_pb2.PurgeRequest(instance_name=INSTANCE, worker=worker)
        if not worker:
            request.since.FromSeconds(0)
        begun, before = time.perf_counter(), service.cpu_seconds()
        async with GrpcChannel(f"unix:{path / 'actioncache.sock'}") as channel:
            answer = operator_pb2.PurgeResponse()
            async for progress in ActionCacheOperatorClient(channel).purge(request, timeout=_TIMEOUT_SECONDS):
                answer = progress
        return _Purge(answer, time.perf_counter() - begun, service.cpu_seconds() - before)

    return purge


async def _fill(path: Path, results: int) -> None:
    async with LmdbStore.open(path, max_bytes=_MAX_BYTES, clock=SystemClock()) as store:
        for start in range(0, results, _PUT_AT_ONCE):
            numbers = range(start, min(results, start + _PUT_AT_ONCE))
            await asyncio.gather(*(store.put(INSTANCE, _action(number), _document(number)) for number in numbers))


def _document(number: int) -> bytes:
    worker = f"worker-{number % _WORKERS}"
    result = pb.ActionResult()
    for output in range(_OUTPUTS):
        name = f"bazel-out/k8-fastbuild/bin/package_{number}/library_{output}.o"
        result.output_files.add(path=name, digest=digest_of(name.encode()))
    result.execution_metadata.worker = worker
    provenance = Provenance("scheduler", "scheduler", time.time(), worker)
    return with_provenance(result.SerializeToString(), provenance)


def _action(number: int) -> Digest:
    return DigestFunction.SHA256.digest(b"action %d" % number)


def _answer_in(output: str) -> operator_pb2.PurgeResponse:
    """Return the answer among the lines of JSON that the command says."""
    says = [json.loads(line) for line in output.splitlines()]
    return operator_pb2.PurgeResponse.FromString(b64decode(next(one["answer"] for one in says if "answer" in one)))
