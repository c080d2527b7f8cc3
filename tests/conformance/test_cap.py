"""Capabilities and API versions (checklist CAP)."""

from __future__ import annotations

from contextlib import nullcontext

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.semver import semver_pb2
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.actions import Script, execute_request, output, run, started, upload
from tests.conformance.blobs import COMPUTABLE, digest_of, fresh
from tests.conformance.compressors import COMPRESSORS, compress, decompress
from tests.conformance.target import Target, chunks_of, codes_of, kept_open, refused

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
FUNCTIONS = [value.name for value in pb.DigestFunction.DESCRIPTOR.enum_types_by_name["Value"].values if value.number]
HASH_LENGTHS = {"SHA1": 40, "MD5": 32, "VSO": 66, "SHA384": 96, "SHA512": 128, "MURMUR3": 32, "GITSHA1": 40}


async def test_cap_01_the_answer_is_the_same_each_time(target: Target) -> None:
    answers = [await target.ask_capabilities() for _ in range(2)]
    assert answers[0].SerializeToString() == answers[1].SerializeToString()


async def test_cap_01_each_instance_answers_for_itself(target: Target, cache_only: Target, sha256_only: Target) -> None:
    assert len({one.capabilities.SerializeToString() for one in (target, cache_only, sha256_only)}) == 3


async def test_cap_02_cache_and_execution_are_both_told_of(target: Target) -> None:
    assert target.capabilities.HasField("cache_capabilities")
    assert target.capabilities.HasField("execution_capabilities")


async def test_cap_03_a_cache_tells_of_no_execution(cache_only: Target) -> None:
    assert cache_only.capabilities.HasField("cache_capabilities")
    assert not cache_only.capabilities.HasField("execution_capabilities")


async def test_cap_04_an_endpoint_that_only_executes_tells_of_no_cache(execution_only: Target) -> None:
    assert execution_only.capabilities.HasField("execution_capabilities")
    assert not execution_only.capabilities.HasField("cache_capabilities")


async def test_cap_05_only_a_wrong_instance_makes_it_fail(target: Target) -> None:
    with refused(INVALID_ARGUMENT):
        await target.at("no-such-instance")
    await target.ask_capabilities()


async def test_cap_06_the_versions_are_a_range_that_ends_at_what_is_implemented(target: Target) -> None:
    low, high = target.capabilities.low_api_version, target.capabilities.high_api_version
    assert (2, 0, 0) <= _numbers(low) <= _numbers(high)
    assert (low.prerelease, high.prerelease) == ("", "")
    if target.capabilities.cache_capabilities.supported_batch_update_compressors:
        # They came with this version.
        assert _numbers(high) >= (2, 3, 0)


async def test_cap_07_the_deprecated_version_is_no_newer_than_the_lowest(target: Target) -> None:
    capabilities = target.capabilities
    if capabilities.HasField("deprecated_api_version"):
        assert _numbers(capabilities.deprecated_api_version) <= _numbers(capabilities.low_api_version)


async def test_cap_08_output_paths_are_honoured_from_2_1_on(target: Target) -> None:
    if _numbers(target.capabilities.high_api_version) < (2, 1, 0):
        pytest.skip("not testable here: the version promises nothing")
    response = await run(target, Script("echo hello > out", output_paths=["out"]))
    assert output(response, "out").digest == digest_of(b"hello\n")


async def test_cap_08_the_platform_of_an_action_wins_from_2_2_on(target: Target) -> None:
    if _numbers(target.capabilities.high_api_version) < (2, 2, 0):
        pytest.skip("not testable here: the version promises nothing")
    # No worker could have it, so the platform of the Command was not what counted.
    nobody = pb.Platform(properties=[pb.Platform.Property(name="ISA", value="pdp11")])
    script = Script(
        "echo hello > out",
        output_paths=["out"],
        command={"platform": nobody},
        action={"platform": pb.Platform(properties=[]), "salt": fresh(16)},
    )
    assert output(await run(target, script), "out").digest == digest_of(b"hello\n")


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_cap_09_the_functions_named_are_those_that_work(target: Target, function: str) -> None:
    number = pb.DigestFunction.Value.Value(function)
    if number not in target.capabilities.cache_capabilities.digest_functions:
        await _refused_function(target, function)
        return
    if function not in COMPUTABLE:
        pytest.skip(f"not testable here: nothing here computes {function}")
    data = fresh()
    digest = await target.put(data, function)
    assert not await target.find_missing([digest], digest_function=number)
    (found,) = (await target.batch_read([digest], digest_function=number)).responses
    assert found.data == data
    assert await target.read(target.resource(digest, function=function)) == data


async def test_cap_09_unknown_is_no_function(target: Target) -> None:
    functions = target.capabilities.cache_capabilities.digest_functions
    assert functions
    assert pb.DigestFunction.UNKNOWN not in functions


async def _refused_function(target: Target, function: str) -> None:
    digest = pb.Digest(hash=fresh(64).hex()[: HASH_LENGTHS.get(function, 64)], size_bytes=5)
    entry = pb.BatchUpdateBlobsRequest.Request(digest=digest, data=b"hello")
    number = pb.DigestFunction.Value.Value(function)
    assert await codes_of(target.update_entries([entry], digest_function=number)) == [INVALID_ARGUMENT]


async def test_cap_10_the_single_function_of_execution_is_set(target: Target) -> None:
    assert target.capabilities.execution_capabilities.digest_function != pb.DigestFunction.UNKNOWN


async def test_cap_11_the_list_of_functions_holds_the_single_one(target: Target) -> None:
    execution = target.capabilities.execution_capabilities
    assert not execution.digest_functions or execution.digest_function in execution.digest_functions


async def test_cap_12_who_may_execute_can(target: Target) -> None:
    if not target.capabilities.execution_capabilities.exec_enabled:
        pytest.skip("not testable here: this caller may not execute")
    operation = await started(target, execute_request(target, await upload(target, Script("true"))))
    assert operation.name


async def test_cap_12_where_nothing_is_executed_execute_is_refused(cache_only: Target) -> None:
    assert not cache_only.capabilities.execution_capabilities.exec_enabled
    action = await upload(cache_only, Script("true"))
    with refused(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED):
        await started(cache_only, execute_request(cache_only, action))


async def test_cap_13_update_enabled_says_whether_updates_are_taken(target: Target) -> None:
    await _updates_are_taken_as_announced(target)


async def test_cap_13_update_enabled_is_false_where_only_the_scheduler_writes(scheduler_writes: Target) -> None:
    cache = scheduler_writes.capabilities.cache_capabilities
    assert not cache.action_cache_update_capabilities.update_enabled
    await _updates_are_taken_as_announced(scheduler_writes)


async def test_cap_13_update_enabled_is_false_where_everybody_only_reads(read_only: Target) -> None:
    assert not read_only.capabilities.cache_capabilities.action_cache_update_capabilities.update_enabled
    await _updates_are_taken_as_announced(read_only)


async def _updates_are_taken_as_announced(target: Target) -> None:
    announced = target.capabilities.cache_capabilities.action_cache_update_capabilities.update_enabled
    request = pb.UpdateActionResultRequest(
        instance_name=target.instance,
        action_digest=digest_of(pb.Action(salt=fresh()).SerializeToString()),
        action_result=pb.ActionResult(stdout_digest=digest_of(b"")),
    )
    with nullcontext() if announced else refused(grpc.StatusCode.PERMISSION_DENIED):
        await target.unary("ActionCache/UpdateActionResult", request, pb.ActionResult)


@pytest.mark.parametrize("beyond", [0, 1])
async def test_cap_14_the_size_named_for_batches_is_the_limit_of_uploads(target: Target, beyond: int) -> None:
    half = _limit(target) // 2
    blobs = [fresh(half), fresh(_limit(target) - half + beyond)]
    if beyond:
        with refused(INVALID_ARGUMENT):
            await target.update(blobs)
    else:
        assert [one.status.code for one in (await target.update(blobs)).responses] == [0, 0]


@pytest.mark.parametrize("beyond", [0, 1])
async def test_cap_14_the_size_named_for_batches_is_the_limit_of_reads(target: Target, beyond: int) -> None:
    half = _limit(target) // 2
    blobs = [fresh(half), fresh(_limit(target) - half + beyond)]
    digests = [await target.put(blob) for blob in blobs]
    if beyond:
        with refused(INVALID_ARGUMENT):
            await target.batch_read(digests)
    else:
        assert {one.data for one in (await target.batch_read(digests)).responses} == set(blobs)


def _limit(target: Target) -> int:
    limit = target.capabilities.cache_capabilities.max_batch_total_size_bytes
    if not limit:
        pytest.skip("not testable here: no limit is named")
    return limit


async def test_cap_15_the_size_named_for_batches_leaves_room_in_4_mib(target: Target) -> None:
    assert 1024**2 <= target.capabilities.cache_capabilities.max_batch_total_size_bytes <= 4 * 1024**2 - 64 * 1024


async def test_cap_15_a_full_batch_is_received_by_a_client_with_defaults(target: Target) -> None:
    size = _limit(target) // 1000
    blobs = {fresh(size) for _ in range(1000)}
    assert not [one for one in (await target.update(blobs)).responses if one.status.code]
    response = await target.batch_read([digest_of(blob) for blob in blobs])
    assert {one.data for one in response.responses} == blobs


async def test_cap_16_the_strategy_for_absolute_symlinks_is_named(target: Target) -> None:
    strategy = target.capabilities.cache_capabilities.symlink_absolute_path_strategy
    assert strategy in (pb.SymlinkAbsolutePathStrategy.ALLOWED, pb.SymlinkAbsolutePathStrategy.DISALLOWED)


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_cap_17_the_compressors_named_are_those_of_streams(target: Target, compressor: str) -> None:
    number = pb.Compressor.Value.Value(compressor)
    data = fresh(1000) * 3
    digest = digest_of(data)
    name = target.upload_name(digest, compressor=compressor.lower())
    if number in target.capabilities.cache_capabilities.supported_compressors:
        await target.write(name, [compress(compressor, data)])
        read = await target.read(target.resource(digest, compressor=compressor.lower()))
        assert decompress(compressor, read) == data
    else:
        with refused(INVALID_ARGUMENT):
            await target.write(name, [compress(compressor, data)])
        await target.put(data)
        with refused(INVALID_ARGUMENT):
            await target.read(target.resource(digest, compressor=compressor.lower()))
    assert await target.read(target.resource(digest)) == data


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_cap_18_the_compressors_named_for_batches_are_taken(target: Target, compressor: str) -> None:
    number = pb.Compressor.Value.Value(compressor)
    data = fresh(1000) * 3
    entry = pb.BatchUpdateBlobsRequest.Request(
        digest=digest_of(data),
        data=compress(compressor, data),
        compressor=number,  # type: ignore[arg-type]  # its value
    )
    (answer,) = (await target.update_entries([entry])).responses
    taken = number in target.capabilities.cache_capabilities.supported_batch_update_compressors
    assert answer.status.code == (0 if taken else INVALID_ARGUMENT.value[0])
    if taken:
        assert await target.read(target.resource(digest_of(data))) == data


async def test_cap_19_blobs_up_to_the_limit_are_taken(limited: Target) -> None:
    limit = limited.capabilities.cache_capabilities.max_cas_blob_size_bytes
    small = await limited.put(fresh(limit))
    data = fresh(limit)
    await limited.write(limited.upload_name(digest_of(data)), chunks_of(data))
    assert not await limited.find_missing([small, digest_of(data)])


async def test_cap_19_a_batch_entry_beyond_the_limit_is_refused(limited: Target) -> None:
    data = fresh(limited.capabilities.cache_capabilities.max_cas_blob_size_bytes + 1)
    answers = (await limited.update([data, b"hello"])).responses
    assert {one.digest.size_bytes: one.status.code for one in answers} == {len(data): INVALID_ARGUMENT.value[0], 5: 0}


@pytest.mark.parametrize("compressor", ["", "zstd"])
async def test_cap_19_an_upload_beyond_the_limit_is_refused_before_its_data(limited: Target, compressor: str) -> None:
    limit = limited.capabilities.cache_capabilities.max_cas_blob_size_bytes
    digest = pb.Digest(hash=digest_of(fresh()).hash, size_bytes=limit + 1)
    first = bs.WriteRequest(resource_name=limited.upload_name(digest, compressor=compressor), data=b"x")
    with refused(INVALID_ARGUMENT):
        await limited.upload(kept_open([first]))


async def test_cap_20_a_blob_beyond_the_limit_that_is_there_can_be_read(target: Target, limited: Target) -> None:
    data = fresh(limited.capabilities.cache_capabilities.max_cas_blob_size_bytes + 1)
    digest = await target.put(data)
    assert await limited.read(limited.resource(digest)) == data


@pytest.mark.parametrize("method", ["SplitBlob", "SpliceBlob"])
async def test_cap_21_split_and_splice_are_announced_if_they_work(target: Target, method: str) -> None:
    cache = target.capabilities.cache_capabilities
    announced = cache.split_blob_support if method == "SplitBlob" else cache.splice_blob_support
    digest = await target.put(b"hello")
    with refused(grpc.StatusCode.UNIMPLEMENTED) if not announced else nullcontext():
        if method == "SplitBlob":
            split = pb.SplitBlobRequest(instance_name=target.instance, blob_digest=digest)
            await target.unary("ContentAddressableStorage/SplitBlob", split, pb.SplitBlobResponse)
        else:
            splice = pb.SpliceBlobRequest(instance_name=target.instance, blob_digest=digest, chunk_digests=[digest])
            await target.unary("ContentAddressableStorage/SpliceBlob", splice, pb.SpliceBlobResponse)


async def test_cap_22_the_average_chunk_is_1_kib_to_1_mib(target: Target) -> None:
    cache = target.capabilities.cache_capabilities
    if cache.HasField("fast_cdc_2020_params"):
        assert 1024 <= cache.fast_cdc_2020_params.avg_chunk_size_bytes <= 1024**2


async def test_cap_23_the_parameters_of_fast_cdc_are_the_recommended_ones(target: Target) -> None:
    cache = target.capabilities.cache_capabilities
    if cache.HasField("fast_cdc_2020_params"):
        parameters = cache.fast_cdc_2020_params
        assert (parameters.avg_chunk_size_bytes, parameters.seed) == (512 * 1024, 0)


async def test_cap_24_rep_max_cdc_has_a_sound_minimum_or_is_not_announced(target: Target) -> None:
    cache = target.capabilities.cache_capabilities
    if cache.HasField("rep_max_cdc_params"):
        assert cache.rep_max_cdc_params.min_chunk_size_bytes >= 64


async def test_cap_25_ranges_of_priorities_are_given(target: Target) -> None:
    for given in (
        target.capabilities.cache_capabilities.cache_priority_capabilities,
        target.capabilities.execution_capabilities.execution_priority_capabilities,
    ):
        assert given.priorities
        assert all(one.min_priority <= one.max_priority for one in given.priorities)


async def test_cap_26_the_node_properties_named_can_be_asked_for(target: Target) -> None:
    names = list(target.capabilities.execution_capabilities.supported_node_properties)
    if not names:
        pytest.skip("not testable here: none are named")
    script = Script("echo hello > out", output_paths=["out"], command={"output_node_properties": names})
    properties = output(await run(target, script), "out").node_properties
    told = {one.name for one in properties.properties}
    told |= {"mtime", "MTime"} if properties.HasField("mtime") else set()
    told |= {"unix_mode", "UnixMode"} if properties.HasField("unix_mode") else set()
    assert set(names) <= told


async def test_cap_27_a_new_client_is_answered_at_once(target: Target) -> None:
    for _ in range(20):
        request = pb.GetCapabilitiesRequest(instance_name=target.instance)
        await target.unary("Capabilities/GetCapabilities", request, pb.ServerCapabilities, timeout=5)


def _numbers(version: semver_pb2.SemVer) -> tuple[int, int, int]:
    return version.major, version.minor, version.patch
