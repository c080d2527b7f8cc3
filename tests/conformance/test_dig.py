"""Digests and digest functions (checklist DIG)."""

from __future__ import annotations

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import Script, output, run, run_action, started, upload_action
from tests.conformance.blobs import EMPTY_BLAKE3, INFERRED, digest_of, fresh, hash_of
from tests.conformance.target import Target, codes_of, refused

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND
Entry = pb.BatchUpdateBlobsRequest.Request

A_HASH = hash_of(b"hello")
BAD_HASHES = {
    "upper case": A_HASH.upper(),
    "one upper-case digit": A_HASH[:-1] + "F",
    "too short": A_HASH[:-1],
    "too long": A_HASH + "0",
    "a letter": A_HASH[:-1] + "g",
    "a space": A_HASH[:-1] + " ",
    "a newline": A_HASH[:-1] + "\n",
    "a dot": "../" + A_HASH[3:],
    "another alphabet": "٣" * 64,
}


@pytest.mark.parametrize("bad", BAD_HASHES.values(), ids=BAD_HASHES.keys())
async def test_dig_01_a_hash_is_lower_case_hexadecimal(target: Target, bad: str) -> None:
    with refused(INVALID_ARGUMENT):
        await target.find_missing([digest_of(fresh()), pb.Digest(hash=bad, size_bytes=5)])
    assert set(await codes_of(target.batch_read([pb.Digest(hash=bad, size_bytes=5)]))) == {INVALID_ARGUMENT}


async def test_dig_02_the_right_hash_with_another_size_is_not_there(target: Target) -> None:
    digest = await target.put(fresh(5))
    wrong = pb.Digest(hash=digest.hash, size_bytes=6)
    assert await target.find_missing([wrong]) == [wrong]
    (code,) = await codes_of(target.batch_read([wrong]))
    assert code in (NOT_FOUND, INVALID_ARGUMENT)
    with refused(NOT_FOUND, INVALID_ARGUMENT):
        await target.read(target.resource(wrong))


async def test_dig_02_two_sizes_of_one_hash_are_asked_for_apart(target: Target) -> None:
    digest = await target.put(fresh(5))
    others = [pb.Digest(hash=digest.hash, size_bytes=size) for size in (4, 6)]
    assert sorted(one.size_bytes for one in await target.find_missing([others[0], digest, others[1]])) == [4, 6]


async def test_dig_03_a_negative_size_is_refused(target: Target) -> None:
    negative = pb.Digest(hash=A_HASH, size_bytes=-1)
    with refused(INVALID_ARGUMENT):
        await target.find_missing([negative])
    with refused(INVALID_ARGUMENT):
        await target.read(target.resource(negative))
    assert await codes_of(target.update_entries([Entry(digest=negative)])) == [INVALID_ARGUMENT]


async def test_dig_04_a_digest_that_was_not_sent_is_refused(target: Target) -> None:
    name = target.instance
    with refused(INVALID_ARGUMENT):
        get = pb.GetActionResultRequest(instance_name=name)
        await target.unary("ActionCache/GetActionResult", get, pb.ActionResult)
    with refused(INVALID_ARGUMENT):
        tree = target.streamed(
            "ContentAddressableStorage/GetTree", pb.GetTreeRequest(instance_name=name), pb.GetTreeResponse
        )
        [page async for page in tree]
    with refused(INVALID_ARGUMENT):
        await started(target, pb.ExecuteRequest(instance_name=name))


@pytest.mark.parametrize("function", INFERRED)
async def test_dig_05_a_function_that_is_not_named_is_told_from_the_length(target: Target, function: str) -> None:
    _need(target, function)
    data = fresh()
    digest = digest_of(data, function)
    assert await codes_of(target.update_entries([Entry(digest=digest, data=data)])) == [grpc.StatusCode.OK]
    assert not await target.find_missing([digest])
    assert await target.read(target.resource(digest)) == data


async def test_dig_06_64_digits_are_sha256_where_it_is_used(target: Target) -> None:
    data = fresh()
    assert await codes_of(target.update_entries([Entry(digest=digest_of(data), data=data)])) == [grpc.StatusCode.OK]


async def test_dig_06_64_digits_are_blake3_where_it_is_the_only_one(blake3_only: Target) -> None:
    data = fresh()
    digest = digest_of(data, "BLAKE3")
    assert await codes_of(blake3_only.update_entries([Entry(digest=digest, data=data)])) == [grpc.StatusCode.OK]
    assert not await blake3_only.find_missing([digest])
    assert await blake3_only.read(blake3_only.resource(digest)) == data


async def test_dig_07_blake3_beside_sha256_must_be_named(target: Target) -> None:
    _need(target, "BLAKE3")
    data = fresh()
    entry = Entry(digest=digest_of(data, "BLAKE3"), data=data)
    assert await codes_of(target.update_entries([entry])) == [INVALID_ARGUMENT]
    named = target.update_entries([entry], digest_function=pb.DigestFunction.BLAKE3)
    assert await codes_of(named) == [grpc.StatusCode.OK]


@pytest.mark.parametrize(("function", "length"), [("SHA512", 64), ("SHA256", 128), ("SHA1", 64), ("BLAKE3", 40)])
async def test_dig_08_a_hash_of_another_length_is_refused(target: Target, function: str, length: int) -> None:
    _need_the_field(target)
    digest = pb.Digest(hash="a" * length, size_bytes=5)
    with refused(INVALID_ARGUMENT):
        await target.find_missing([digest], digest_function=function)
    with refused(INVALID_ARGUMENT):
        get = pb.GetActionResultRequest(instance_name=target.instance, action_digest=digest, digest_function=function)
        await target.unary("ActionCache/GetActionResult", get, pb.ActionResult)


async def test_dig_09_an_unknown_function_is_refused(target: Target) -> None:
    _need_the_field(target)
    with refused(INVALID_ARGUMENT) as refusal:
        await target.find_missing([digest_of(b"hello")], digest_function=99)
    assert "SHA256" in refusal.message.upper().replace("-", "")


async def test_dig_09_a_function_that_is_off_is_refused(sha256_only: Target) -> None:
    with refused(INVALID_ARGUMENT) as refusal:
        await sha256_only.find_missing([digest_of(b"hello", "SHA1")], digest_function=pb.DigestFunction.SHA1)
    assert "SHA256" in refusal.message
    with refused(INVALID_ARGUMENT):
        await sha256_only.find_missing([digest_of(b"hello", "SHA1")])


async def test_dig_10_a_request_has_one_function(target: Target) -> None:
    data = fresh()
    mixed = [digest_of(data), digest_of(data, "SHA1")]
    with refused(INVALID_ARGUMENT):
        await target.find_missing(mixed)
    codes = await codes_of(target.update_entries([Entry(digest=digest, data=data) for digest in mixed]))
    assert codes in ([grpc.StatusCode.OK, INVALID_ARGUMENT], [INVALID_ARGUMENT])
    assert INVALID_ARGUMENT in await codes_of(target.batch_read(mixed))


async def test_dig_11_inputs_of_another_function_are_refused(target: Target) -> None:
    data = fresh()
    root = pb.Directory()
    root.files.add(name="input", digest=digest_of(data, "SHA1"))
    input_root = await target.put(root.SerializeToString())
    await target.put(data)
    action = await upload_action(target, Script("cat input"), input_root)
    try:
        response = await run_action(target, action)
    except grpc.aio.AioRpcError as error:
        code = error.code().value[0]
    else:
        code = response.status.code
    assert code in (INVALID_ARGUMENT.value[0], FAILED_PRECONDITION.value[0])


@pytest.mark.parametrize("function", ["SHA1", "SHA512", "BLAKE3"])
async def test_dig_12_the_digests_in_a_result_have_the_function_of_the_action(target: Target, function: str) -> None:
    _need(target, function)
    text = "echo hello; echo oh >&2; echo out > out; mkdir -p d/e; echo in > d/e/f"
    response = await run(target, Script(text, output_paths=["out", "d"]), function=function)
    assert output(response, "out").digest == digest_of(b"out\n", function)
    result = response.result
    assert result.stdout_raw == b"hello\n" or result.stdout_digest == digest_of(b"hello\n", function)
    assert result.stderr_raw == b"oh\n" or result.stderr_digest == digest_of(b"oh\n", function)
    (directory,) = result.output_directories
    tree = await _tree(target, directory.tree_digest, function)
    (nested,) = tree.root.directories
    assert nested.digest == digest_of(tree.children[0].SerializeToString(), function)
    assert tree.children[0].files[0].digest == digest_of(b"in\n", function)


async def _tree(target: Target, digest: pb.Digest, function: str = "SHA256") -> pb.Tree:
    data = await target.read(target.resource(digest, function=function))
    assert digest_of(data, function) == digest
    tree = pb.Tree.FromString(data)
    # Canonical: nothing in the bytes but what another implementation would write.
    assert tree.SerializeToString(deterministic=True) == data
    return tree


async def test_dig_13_sha256tree_is_refused_where_it_is_not_offered(target: Target) -> None:
    await _refused_function(target, "SHA256TREE", 64)
    with refused(INVALID_ARGUMENT):
        await target.read(f"{target.prefix}blobs/sha256tree/{A_HASH}/5")


async def test_dig_14_gitsha1_is_computed_or_refused(target: Target) -> None:
    if pb.DigestFunction.GITSHA1 not in target.capabilities.cache_capabilities.digest_functions:
        await _refused_function(target, "GITSHA1", 40)
        return
    data = fresh()
    digest = await target.put(data, "GITSHA1")
    assert await target.read(target.resource(digest, function="GITSHA1")) == data


async def test_dig_15_vso_is_refused_where_it_is_not_offered(target: Target) -> None:
    await _refused_function(target, "VSO", 66)
    # Nor is it told from the length.
    with refused(INVALID_ARGUMENT):
        await target.find_missing([pb.Digest(hash="a" * 66, size_bytes=5)])


async def test_dig_16_blake3_has_32_bytes(target: Target) -> None:
    _need(target, "BLAKE3")
    empty = pb.Digest(hash=EMPTY_BLAKE3)
    assert not await target.find_missing([empty], digest_function=pb.DigestFunction.BLAKE3)
    data = fresh()
    digest = await target.put(data, "BLAKE3")
    assert len(digest.hash) == 64
    assert await target.read(target.resource(digest, function="BLAKE3")) == data


async def test_dig_17_murmur3_is_refused_where_it_is_not_offered(target: Target) -> None:
    await _refused_function(target, "MURMUR3", 32)


async def test_dig_18_the_same_bytes_under_two_functions_are_two_blobs(target: Target) -> None:
    _need(target, "SHA512")
    data = fresh()
    await target.put(data)
    other = digest_of(data, "SHA512")
    assert await target.find_missing([other]) == [other]


async def test_dig_19_what_the_server_makes_is_in_canonical_encoding(target: Target) -> None:
    text = "mkdir -p d/b/x d/a; echo 1 > d/b/x/2; echo 3 > d/a/z; echo 4 > d/a/y; ln -s y d/a/link; chmod +x d/a/y"
    response = await run(target, Script(text, output_paths=["d"]))
    (directory,) = response.result.output_directories
    tree = await _tree(target, directory.tree_digest)
    children = {digest_of(child.SerializeToString()).hash: child for child in tree.children}
    for parent in (tree.root, *tree.children):
        assert [one.name for one in parent.directories] == sorted(one.name for one in parent.directories)
        assert [one.name for one in parent.files] == sorted(one.name for one in parent.files)
        assert all(one.digest.hash in children for one in parent.directories)


async def test_dig_20_bytes_are_kept_only_under_their_own_digest(target: Target) -> None:
    wrong = digest_of(fresh())
    data = fresh()
    assert len(data) == wrong.size_bytes
    assert await codes_of(target.update_entries([Entry(digest=wrong, data=data)])) == [INVALID_ARGUMENT]
    with refused(INVALID_ARGUMENT):
        await target.write(target.upload_name(wrong), [data[:50], data[50:]])
    assert await target.find_missing([wrong]) == [wrong]
    with refused(NOT_FOUND):
        await target.read(target.resource(wrong))


def _need(target: Target, function: str) -> None:
    """Skip what needs a function that the endpoint does not offer; CAP-09 says that it is refused then."""
    if pb.DigestFunction.Value.Value(function) not in target.capabilities.cache_capabilities.digest_functions:
        pytest.skip(f"not testable here: {function} is not offered")


def _need_the_field(target: Target) -> None:
    """Skip what a server cannot know whose version is older than the field ``digest_function`` of requests."""
    high = target.capabilities.high_api_version
    if (high.major, high.minor) < (2, 5):
        pytest.skip("not testable here: this version has no digest_function in requests")


async def _refused_function(target: Target, function: str, length: int) -> None:
    _need_the_field(target)
    number = pb.DigestFunction.Value.Value(function)
    if number in target.capabilities.cache_capabilities.digest_functions:
        pytest.skip(f"not testable here: nothing here computes {function}")
    digest = pb.Digest(hash="a" * length, size_bytes=5)
    with refused(INVALID_ARGUMENT):
        await target.find_missing([digest], digest_function=number)
    entry = Entry(digest=digest, data=b"hello")
    assert set(await codes_of(target.update_entries([entry], digest_function=number))) == {INVALID_ARGUMENT}
