"""Capabilities: what the pure function decides (checklist CAP)."""

from __future__ import annotations

import pytest

from gridwright.auth.identity import ANONYMOUS, NOBODY, Identity, Role
from gridwright.digest import DigestFunction
from gridwright.errors import InvalidRequest
from gridwright.instances import Instance, Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import CapabilitiesClient
from gridwright.wire.capabilities import CapabilitiesServicer, server_capabilities
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.limits import MAX_RECEIVE_BYTES
from gridwright.wire.upload_rights import refuse_too_large

MAIN = InstanceSettings(name="main")
CACHE_ONLY = InstanceSettings(name="main/cache", execution=False)
BLAKE3 = InstanceSettings(name="blake", digest_functions=(DigestFunction.BLAKE3,))


def of(settings: InstanceSettings, *roles: Role) -> pb.ServerCapabilities:
    return server_capabilities(Instance.from_settings(settings), frozenset(roles) or ANONYMOUS.roles)


async def test_each_instance_has_its_own_and_twice_the_same() -> None:
    """CAP-01."""
    client = CapabilitiesClient(InProcessChannel(CapabilitiesServicer(Instances([MAIN, CACHE_ONLY]))))
    answers = {}
    for name in ("main", "main/cache"):
        twice = [
            await client.get_capabilities(pb.GetCapabilitiesRequest(instance_name=name), timeout=5) for _ in range(2)
        ]
        assert twice[0].SerializeToString() == twice[1].SerializeToString()
        answers[name] = twice[0]
    assert answers["main"].HasField("execution_capabilities")
    assert not answers["main/cache"].HasField("execution_capabilities")


async def test_an_unknown_instance_is_the_only_error_also_for_callers_without_roles() -> None:
    """CAP-05."""
    servicer = CapabilitiesServicer(Instances([MAIN]))
    client = CapabilitiesClient(InProcessChannel(servicer, identity=NOBODY))
    await client.get_capabilities(pb.GetCapabilitiesRequest(instance_name="main"), timeout=5)
    with pytest.raises(InvalidRequest):
        await client.get_capabilities(pb.GetCapabilitiesRequest(instance_name="other"), timeout=5)


def test_an_instance_that_executes_has_both_parts_and_one_that_caches_has_one() -> None:
    """CAP-02, CAP-03."""
    assert of(MAIN).HasField("cache_capabilities")
    assert of(MAIN).HasField("execution_capabilities")
    assert of(CACHE_ONLY).HasField("cache_capabilities")
    assert not of(CACHE_ONLY).HasField("execution_capabilities")


def test_the_version_is_a_range_that_holds_what_clients_ask_for() -> None:
    """CAP-06, CAP-07, CAP-08."""
    capabilities = of(MAIN)
    low, high = capabilities.low_api_version, capabilities.high_api_version
    assert (low.major, low.minor, low.patch, low.prerelease) == (2, 0, 0, "")
    assert (high.major, high.minor, high.patch, high.prerelease) == (2, 12, 0, "")
    assert not capabilities.HasField("deprecated_api_version")


@pytest.mark.parametrize("settings", [MAIN, BLAKE3])
def test_the_digest_functions_are_those_of_the_instance(settings: InstanceSettings) -> None:
    """CAP-09, CAP-11."""
    capabilities = of(settings)
    functions = [int(function) for function in settings.digest_functions]
    assert list(capabilities.cache_capabilities.digest_functions) == functions
    assert list(capabilities.execution_capabilities.digest_functions) == functions
    assert pb.DigestFunction.UNKNOWN not in functions
    assert capabilities.execution_capabilities.digest_function in functions


def test_the_one_legacy_function_is_sha256_where_it_is_used() -> None:
    """CAP-10."""
    backwards = InstanceSettings(name="a", digest_functions=tuple(reversed(DigestFunction)))
    assert of(backwards).execution_capabilities.digest_function == pb.DigestFunction.SHA256
    assert of(BLAKE3).execution_capabilities.digest_function == pb.DigestFunction.BLAKE3


def test_execution_is_enabled_for_who_may_execute() -> None:
    """CAP-12."""
    assert of(MAIN, Role.EXECUTOR).execution_capabilities.exec_enabled
    assert not of(MAIN, Role.READER, Role.WRITER).execution_capabilities.exec_enabled


def test_updates_of_the_action_cache_are_enabled_for_who_may_write() -> None:
    """CAP-13."""
    assert of(MAIN, Role.WRITER).cache_capabilities.action_cache_update_capabilities.update_enabled
    reader = of(MAIN, Role.READER, Role.EXECUTOR, Role.CAS_WRITER)
    assert not reader.cache_capabilities.action_cache_update_capabilities.update_enabled


def test_nobody_writes_to_a_read_only_instance() -> None:
    """CAP-13."""
    frozen = InstanceSettings(name="frozen", read_only=True, execution=False)
    assert not of(frozen).cache_capabilities.action_cache_update_capabilities.update_enabled


def test_a_batch_of_the_largest_size_fits_in_a_message_of_a_client_with_defaults() -> None:
    """CAP-14, CAP-15."""
    limit = of(MAIN).cache_capabilities.max_batch_total_size_bytes
    assert 1024**2 <= limit <= 4 * 1024**2 - 64 * 1024
    assert limit < MAX_RECEIVE_BYTES


def test_absolute_symlinks_have_a_strategy() -> None:
    """CAP-16."""
    strategy = of(MAIN).cache_capabilities.symlink_absolute_path_strategy
    assert strategy == pb.SymlinkAbsolutePathStrategy.ALLOWED


def test_what_is_not_offered_yet_is_not_announced() -> None:
    """CAP-21, CAP-24: each is announced by the change that makes it work."""
    cache = of(MAIN).cache_capabilities
    assert not cache.split_blob_support
    assert not cache.splice_blob_support
    assert not cache.HasField("fast_cdc_2020_params")
    assert not cache.HasField("rep_max_cdc_params")


def test_the_limit_on_the_size_of_a_blob_is_that_of_the_instance() -> None:
    """CAP-19."""
    assert of(MAIN).cache_capabilities.max_cas_blob_size_bytes == 0
    limited = InstanceSettings(name="limited", max_blob_bytes=100)
    assert of(limited).cache_capabilities.max_cas_blob_size_bytes == 100


def test_a_blob_beyond_the_limit_is_refused() -> None:
    """CAP-19."""
    limited = Instance.from_settings(InstanceSettings(name="limited", max_blob_bytes=100))
    refuse_too_large(DigestFunction.SHA256.digest(bytes(100)), limited)
    with pytest.raises(InvalidRequest, match="larger than the 100 bytes that instance 'limited' takes"):
        refuse_too_large(DigestFunction.SHA256.digest(bytes(101)), limited)
    refuse_too_large(DigestFunction.SHA256.digest(bytes(101)), Instance.from_settings(MAIN))


def test_compressors_are_announced_for_streams_and_batches() -> None:
    """CAP-17, CAP-18."""
    cache = of(MAIN).cache_capabilities
    offered = [pb.Compressor.ZSTD, pb.Compressor.DEFLATE, pb.Compressor.BROTLI]
    assert list(cache.supported_compressors) == offered
    assert list(cache.supported_batch_update_compressors) == offered


def test_an_endpoint_without_a_cache_tells_of_execution_only() -> None:
    """CAP-04."""
    told = server_capabilities(Instance.from_settings(MAIN), ANONYMOUS.roles, has_cache=False)
    assert told.HasField("execution_capabilities")
    assert not told.HasField("cache_capabilities")


def test_every_priority_is_accepted() -> None:
    """CAP-25: Bazel refuses one outside the range."""
    capabilities = of(MAIN)
    for part in (
        capabilities.cache_capabilities.cache_priority_capabilities,
        capabilities.execution_capabilities.execution_priority_capabilities,
    ):
        (priorities,) = part.priorities
        assert (priorities.min_priority, priorities.max_priority) == (-(2**31), 2**31 - 1)


def test_who_is_nobody_in_particular_has_every_role_but_one() -> None:
    assert ANONYMOUS.roles == frozenset(Role) - {Role.ADMIN, Role.SCHEDULER}
    assert not NOBODY.roles
    assert Identity("ann", frozenset({Role.READER})) != ANONYMOUS
