"""`gridwright capabilities`: what an endpoint says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import typer
from rich.console import Console
from rich.table import Table

from gridwright.errors import GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.semver import semver_pb2
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_cli.exits import complain, exit_status
from gridwright_cli.remote import (
    DEFAULT_INSTANCE,
    DEFAULT_REMOTE,
    InstanceOption,
    RemoteOption,
    ask_capabilities,
    request_metadata,
    target_of,
)


def capabilities(remote: RemoteOption = DEFAULT_REMOTE, instance: InstanceOption = DEFAULT_INSTANCE) -> None:
    """Show what an endpoint offers.

    Exit status: 0; 121 if the server cannot be reached, 122 if it refuses.
    """
    target = target_of(remote)
    try:
        answer = asyncio.run(_ask(target, remote, instance))
    except GridwrightError as error:
        complain(str(error))
        raise typer.Exit(exit_status(error)) from None
    table = Table("capability", "value", title=f"{remote}, instance {instance or '(empty)'}")
    for name, value in rows(answer):
        table.add_row(name, value)
    Console().print(table)


async def _ask(target: str, remote: str, instance: str) -> pb.ServerCapabilities:
    async with GrpcChannel(target) as channel:
        return await ask_capabilities(channel, remote, instance, request_metadata(str(uuid4())))


def rows(answer: pb.ServerCapabilities) -> Iterator[tuple[str, str]]:
    """Yield name and value of each capability, in words."""
    cache, execution = answer.cache_capabilities, answer.execution_capabilities
    yield "API versions", f"{_version(answer.low_api_version)} to {_version(answer.high_api_version)}"
    yield "execution", _yes(execution.exec_enabled)
    yield "digest functions", ", ".join(pb.DigestFunction.Value.Name(one) for one in cache.digest_functions)
    yield "action cache updates", _yes(cache.action_cache_update_capabilities.update_enabled)
    size_bytes = cache.max_batch_total_size_bytes
    yield "largest batch", f"{size_bytes:,} bytes" if size_bytes else "no limit"
    compressors = [pb.Compressor.Value.Name(one) for one in cache.supported_compressors]
    yield "compressors", ", ".join(compressors) or "none"
    yield (
        "absolute symbolic links",
        pb.SymlinkAbsolutePathStrategy.Value.Name(cache.symlink_absolute_path_strategy).lower(),
    )
    yield "split and splice", f"{_yes(cache.split_blob_support)}, {_yes(cache.splice_blob_support)}"


def _version(version: semver_pb2.SemVer) -> str:
    parts = f"{version.major}.{version.minor}"
    return f"{parts}.{version.patch}" if version.patch else parts


def _yes(value: bool) -> str:
    return "yes" if value else "no"
