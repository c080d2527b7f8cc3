"""The documents that describe one command to a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asks for."""

    arguments: Sequence[str]
    output_paths: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    platform: Sequence[tuple[str, str]] = ()
    timeout_seconds: float | None = None


def describe(wish: Wish, input_root: Digest) -> tuple[Digest, Mapping[Digest, bytes]]:
    """Return the digest of the Action, and the blobs of it and of its Command.

    Environment, output paths and platform are in order, as REAPI has it, so equal wishes
    are one action (checklist CMD).
    """
    function = input_root.function
    platform = pb.Platform(
        properties=[pb.Platform.Property(name=name, value=value) for name, value in sorted(wish.platform)]
    )
    command = pb.Command(
        arguments=wish.arguments,
        environment_variables=[
            pb.Command.EnvironmentVariable(name=name, value=value)
            for name, value in sorted((wish.environment or {}).items())
        ],
        output_paths=sorted(wish.output_paths),
        platform=platform,
    )
    command_bytes, command_digest = _serialised(command, function)
    action = pb.Action(
        command_digest=digest_message(command_digest), input_root_digest=digest_message(input_root), platform=platform
    )
    if wish.timeout_seconds is not None:
        timeout = Duration()
        timeout.FromNanoseconds(int(wish.timeout_seconds * 1e9))
        action.timeout.CopyFrom(timeout)
    action_bytes, action_digest = _serialised(action, function)
    return action_digest, {command_digest: command_bytes, action_digest: action_bytes}


def _serialised(message: pb.Command | pb.Action, function: DigestFunction) -> tuple[bytes, Digest]:
    data = message.SerializeToString(deterministic=True)
    return data, function.digest(data)
