"""Capabilities: what an endpoint can do, as a pure function of an instance and its caller's rights."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from gridwright.auth.identity import Role
from gridwright.auth.result_writers import right_to_write
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
#: Of ByteStream and of batches; IDENTITY goes without saying (CAP-17, CAP-18).
_COMPRESSORS = (pb.Compressor.ZSTD, pb.Compressor.DEFLATE, pb.Compressor.BROTLI)
#: Bazel refuses a priority outside the range, so it is as wide as an int32 (checklist CAP-25).
_PRIORITIES = pb.PriorityCapabilities(
    priorities=[pb.PriorityCapabilities.PriorityRange(min_priority=-(2**31), max_priority=2**31 - 1)]
)


def server_capabilities(instance: Instance, roles: Set[Role], *, has_cache: bool = True) -> pb.ServerCapabilities:
    """Return what a caller with *roles* may do in *instance*, at an endpoint that *has_cache* (checklist CAP)."""
    capabilities = pb.ServerCapabilities(low_api_version=LOW_API_VERSION, high_api_version=HIGH_API_VERSION)
    if has_cache:
        capabilities.cache_capabilities.CopyFrom(_cache_capabilities(instance, roles))
    if instance.execution:
        capabilities.execution_capabilities.CopyFrom(_execution_capabilities(instance, roles))
    return capabilities


def _cache_capabilities(instance: Instance, roles: Set[Role]) -> pb.CacheCapabilities:
    return pb.CacheCapabilities(
        digest_functions=_numbers(instance),
        action_cache_update_capabilities=pb.ActionCacheUpdateCapabilities(
            update_enabled=right_to_write(instance.result_writers, roles) is not None
        ),
        cache_priority_capabilities=_PRIORITIES,
        max_batch_total_size_bytes=MAX_BATCH_BYTES,
        max_cas_blob_size_bytes=instance.max_blob_bytes,
        supported_compressors=_COMPRESSORS,
        supported_batch_update_compressors=_COMPRESSORS,
        symlink_absolute_path_strategy=pb.SymlinkAbsolutePathStrategy.ALLOWED,
    )


def _execution_capabilities(instance: Instance, roles: Set[Role]) -> pb.ExecutionCapabilities:
    functions = _numbers(instance)
    return pb.ExecutionCapabilities(
        # reclient compares only this one field, and old Bazel too (CAP-10).
        digest_function=pb.DigestFunction.SHA256 if pb.DigestFunction.SHA256 in functions else functions[0],
        digest_functions=functions,
        exec_enabled=Role.EXECUTOR in roles,
        execution_priority_capabilities=_PRIORITIES,
        supported_node_properties=sorted(OUTPUT_NODE_PROPERTIES),
    )


def _numbers(instance: Instance) -> Sequence[Any]:
    """Return the digest functions of *instance* as REAPI numbers them, which is how we do."""
    return [int(function) for function in instance.digest_functions]


class CapabilitiesServicer(Capabilities):
    """Answers GetCapabilities out of settings only.

    The CAS and the action cache answer for the whole grid, as the gateway shows it to clients.
    The scheduler answers for itself: *has_cache* is False there, as an endpoint that only
    executes tells of no cache (CAP-04).
    """

    def __init__(self, instances: Instances, *, has_cache: bool = True) -> None:
        self._instances = instances
        self._has_cache = has_cache

    async def get_capabilities(self, request: pb.GetCapabilitiesRequest, call: Call) -> pb.ServerCapabilities:
        instance = self._instances[request.instance_name]
        return server_capabilities(instance, call.identity.roles, has_cache=self._has_cache)
