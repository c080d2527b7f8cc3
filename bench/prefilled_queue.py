"""A queue of a length that would take too long to make by Execute calls."""

from __future__ import annotations

import sys

import grpc
from sqlalchemy import Table

from bench.scheduler_process import SchedulerProcess
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import EXECUTE
from gridwright_scheduler.database.schema import actions, operations

_TIMEOUT_SECONDS = 60.0
_HASH = "md5(n::text) || md5(n::text || 'x')"
#: What is not the same in each copy of a row.
_OF_ACTIONS = {"id": "id || '-' || n", "hash": _HASH, "sequence": "sequence + n", "tag": "tag + n"}
_OF_OPERATIONS = {"name": "name || '-' || n", "action_id": "action_id || '-' || n"}


async def fill_queue(scheduler: SchedulerProcess, request: bytes, count: int) -> None:
    """Have *count* actions queued: the one of the ExecuteRequest *request*, for which there is no worker, and copies.

    Raises:
        SystemExit: the scheduler's state is not in PostgreSQL.
    """
    if scheduler.postgresql is None:
        sys.exit("the queue can be filled in PostgreSQL only: leave --queued out, or use --database postgresql")
    async with grpc.aio.insecure_channel(scheduler.endpoint) as channel:
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(EXECUTE.path)
        stream = call(request, timeout=_TIMEOUT_SECONDS)
        await stream.read()  # it is queued now, and stays so when the client leaves
        stream.cancel()
    for table, different in ((actions, _OF_ACTIONS), (operations, _OF_OPERATIONS)):
        await scheduler.postgresql.value(_copies(table, different), count - 1)
    await scheduler.postgresql.value("ANALYZE")


def _copies(table: Table, different: dict[str, str]) -> str:
    columns = [column.name for column in table.columns]
    values = [different.get(name, name) for name in columns]
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"SELECT {', '.join(values)} FROM {table.name}, generate_series(1, $1::int) AS n"
    )
