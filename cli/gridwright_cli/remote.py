"""The endpoint that a command speaks to."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwright.errors import DeadlineExceeded, GridwrightError, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import CapabilitiesClient
from gridwright.version import VERSION
from gridwright.wire.request_metadata import metadata_of
from gridwright.wire.rpc import Channel, Metadata

_ASK_SECONDS = 10.0
_SCHEMES = ("grpc://", "http://")

RemoteOption = Annotated[
    str, typer.Option("--remote", help="The endpoint: grpc://HOST:PORT or unix:PATH.", metavar="ADDRESS")
]
InstanceOption = Annotated[str, typer.Option("--instance", help="The instance name there.")]
DEFAULT_REMOTE = "grpc://127.0.0.1:50051"
DEFAULT_INSTANCE = "main"


def target_of(remote: str) -> str:
    """Return the gRPC target that *remote* means, written as build tools write it.

    Raises:
        typer.BadParameter: it cannot be used.
    """
    if remote.startswith(("grpcs://", "https://")):
        raise typer.BadParameter("TLS is not spoken here yet: use grpc://HOST:PORT", param_hint="--remote")
    if remote.startswith("unix:"):
        return remote
    for scheme in _SCHEMES:
        remote = remote.removeprefix(scheme)
    host, _, port = remote.rstrip("/").rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"{remote!r} is no address: use grpc://HOST:PORT", param_hint="--remote")
    return f"{host}:{port}"


def request_metadata(invocation: str) -> Metadata:
    """Return the headers that say who is calling, for every call of one invocation of the command."""
    return metadata_of(
        pb.RequestMetadata(
            tool_details=pb.ToolDetails(tool_name="gridwright", tool_version=VERSION), tool_invocation_id=invocation
        )
    )


async def ask_capabilities(
    channel: Channel, remote: str, instance: str, metadata: Metadata = ()
) -> pb.ServerCapabilities:
    """Return what *remote* can do; asked first, it tells a wrong address or instance in plain words.

    Raises:
        Unavailable: nobody answers there.
        GridwrightError: it refuses.
    """
    request = pb.GetCapabilitiesRequest(instance_name=instance)
    try:
        return await CapabilitiesClient(channel).get_capabilities(request, timeout=_ASK_SECONDS, metadata=metadata)
    except (Unavailable, DeadlineExceeded) as error:
        raise Unavailable(f"cannot reach {remote}: {error}") from None
    except GridwrightError as error:
        raise type(error)(f"{remote} refuses: {error}") from None
