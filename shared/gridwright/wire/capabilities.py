"""Capabilities: what an endpoint can do, as a pure function of an instance and its caller's rights."""

from __future__ import annotations

from collections.abc import Set

from gridwright.auth.identity import Role
from gridwright.digest import DigestFunction
from gridwright.documents import OUTPUT_NODE_PROPERTIES
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import Capabilities
from gridwright.protos.build.bazel.semver import semver_pb2
from gridwright.wire.call import Call
from gridwright.wire.limits import MAX_BATCH_BYTES

#: Bazel 7 asks for "2.0 to 2.0" and refuses a server whose range does not hold it.
LOW_API_VERSION = semver_pb2.SemVer(major=2, minor=0)
HIGH_API_VERSION = semver_pb2.SemVer(major=2, minor=12)
#: Bazel refuses a priority outside the range, so it is as wide as an int32 (checklist CAP-25).
_PRIORITIES = pb.PriorityCapabilities(
    priorities=[pb.PriorityCapabilities.PriorityRange(min_priority=-(2**31), max_priority=2**31 - 1)]
)


def server_capabilities(instance: Instance, roles: Set[Role]) -> pb.ServerCapabilities:
    """Return what a caller with *roles* may do in *instance* (checklist CAP)."""
    functions = [int(function) for function in instance.digest_functions]
    capabilities = pb.ServerCapabilities(
        low_api_version=LOW_API_VERSION,
        high_api_version=HIGH_API_VERSION,
        cache_capabilities=pb.CacheCapabilities(
            digest_functions=functions,  # type: ignore[arg-type]  # the same numbers
            action_cache_update_capabilities=pb.ActionCacheUpdateCapabilities(update_enabled=Role.WRITER in roles),
            cache_priority_capabilities=_PRIORITIES,
            max_batch_total_size_bytes=MAX_BATCH_BYTES,
            symlink_absolute_path_strategy=pb.SymlinkAbsolutePathStrategy.ALLOWED,
        ),
    )
    if instance.execution:
        default = DigestFunction.SHA256 if DigestFunction.SHA256 in instance.digest_functions else functions[0]
        capabilities.execution_capabilities.CopyFrom(
            pb.ExecutionCapabilities(
                # reclient compares only this one field, and old Bazel too (CAP-10).
                digest_function=int(default),  # type: ignore[arg-type]
                digest_functions=functions,  # type: ignore[arg-type]
                exec_enabled=Role.EXECUTOR in roles,
                execution_priority_capabilities=_PRIORITIES,
                supported_node_properties=sorted(OUTPUT_NODE_PROPERTIES),
            )
        )
    return capabilities


class CapabilitiesServicer(Capabilities):
    """Answers GetCapabilities; the same in every service, as it depends on settings only."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    async def get_capabilities(self, request: pb.GetCapabilitiesRequest, call: Call) -> pb.ServerCapabilities:
        return server_capabilities(self._instances[request.instance_name], call.identity.roles)
