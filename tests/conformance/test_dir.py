"""Input trees, and trees that a worker makes (checklist DIR)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import grpc
import pytest
from google.rpc import code_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import Script, output, run_action, upload_action
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.commands import code_of, contents, execute, put, shell
from tests.conformance.target import Target, refused

INVALID = code_pb2.INVALID_ARGUMENT
EMPTY = digest_of(b"")
FORM = pb.Command.OutputDirectoryFormat
#: Makes the directory "d", with one below it that is there twice, and one that is empty.
MAKES_A_TREE = "mkdir -p d/z d/a d/empty; echo 1 > d/z/f; echo 1 > d/a/f; echo 2 > d/b; ln -s b d/l; echo 3 > d/Z"


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "/a"])
@pytest.mark.parametrize("nodes", ["files", "directories", "symlinks"])
async def test_dir_01_a_name_is_one_segment(target: Target, nodes: str, name: str) -> None:
    assert await code_of(target, await action_in(target, directory_with(nodes, name))) == INVALID


@pytest.mark.parametrize("other", ["files", "directories", "symlinks"])
async def test_dir_02_a_name_occurs_once(target: Target, other: str) -> None:
    root = directory_with("files", "x")
    root.MergeFrom(directory_with(other, "x"))
    assert await code_of(target, await action_in(target, root)) == INVALID


async def test_dir_03_nodes_out_of_order_do_no_harm(target: Target) -> None:
    root = pb.Directory(
        files=[{"name": name, "digest": EMPTY} for name in ("b", "a")],
        directories=[{"name": name, "digest": EMPTY} for name in ("z", "y")],
        symlinks=[{"name": name, "target": "a"} for name in ("m", "l")],
    )
    assert await listing(target, root) == ["a", "b", "l", "m", "y", "z"]


async def test_dir_04_node_properties_out_of_order_do_no_harm(target: Target) -> None:
    root = pb.Directory(files=[{"name": "f", "digest": EMPTY}])
    for name in ("two", "one"):
        root.files[0].node_properties.properties.add(name=name, value="x")
    assert await listing(target, root) == ["f"]


async def test_dir_05_names_that_differ_in_case_are_two(target: Target) -> None:
    root = pb.Directory(files=[{"name": name, "digest": EMPTY} for name in ("Foo", "foo")])
    assert await listing(target, root) == ["Foo", "foo"]


async def test_dir_06_what_is_executable_can_be_executed_and_nothing_else(target: Target) -> None:
    tool = await target.put(b"#!/bin/sh\necho ran\n")
    root = pb.Directory(
        files=[{"name": "plain", "digest": tool}, {"name": "tool", "digest": tool, "is_executable": True}]
    )
    text = "./tool > out; test -x plain || echo not >> out; stat -c %a plain tool >> out"
    said = (await contents_in(target, root, text)).decode().split()
    assert said[:2] == ["ran", "not"]
    plain, executable = (int(mode, 8) for mode in said[2:])
    assert (plain & 0o111, executable & 0o111) == (0, 0o111)


async def test_dir_07_empty_directories_are_there(target: Target) -> None:
    root = pb.Directory(directories=[{"name": "empty", "digest": EMPTY}])
    assert await contents_in(target, root, "test -d empty && ls empty > out") == b""


async def test_dir_08_a_change_of_an_input_is_not_seen_elsewhere(target: Target) -> None:
    data = fresh(1_000)
    root = pb.Directory(files=[{"name": "f", "digest": await target.put(data)}])
    script = Script("cat f > out; (chmod u+w f; echo more >> f; rm f; echo other > f) || true", output_paths=["out"])
    for _ in range(3):
        response = await run_action(target, await upload_action(target, another(script), await put(target, root)))
        assert await contents(target, response, "out") == data
    assert await target.read(target.resource(digest_of(data))) == data


@pytest.mark.parametrize("difference", [1, -1])
async def test_dir_09_a_file_of_another_size_is_never_used(target: Target, difference: int) -> None:
    digest = await target.put(fresh(100))
    digest.size_bytes += difference
    root = pb.Directory(files=[{"name": "f", "digest": digest}])
    assert await code_of(target, await action_in(target, root)) in (INVALID, code_pb2.FAILED_PRECONDITION)


async def test_dir_10_a_directory_that_is_none_is_invalid(target: Target) -> None:
    root = pb.Directory(directories=[{"name": "d", "digest": await target.put(b"\xff\xff" + fresh(8))}])
    assert await code_of(target, await action_in(target, root)) == INVALID
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        await directories_below(target, await put(target, root))


async def test_dir_11_a_tree_of_too_many_paths_is_refused(target: Target) -> None:
    root = pb.Directory(files=[{"name": "f", "digest": EMPTY}])
    for _ in range(40):
        below = await put(target, root)
        root = pb.Directory(directories=[{"name": name, "digest": below} for name in ("a", "b")])
    code = await code_of(target, await action_in(target, root))
    assert code in (INVALID, code_pb2.RESOURCE_EXHAUSTED)


async def test_dir_12_trees_that_are_made_are_in_canonical_form(target: Target) -> None:
    made, data = await made_tree(target)
    assert made.SerializeToString(deterministic=True) == data
    for directory in (made.root, *made.children):
        for nodes in (directory.files, directory.directories, directory.symlinks):
            names = [node.name.encode() for node in nodes]
            assert names == sorted(names)


async def test_dir_13_the_same_content_makes_the_same_tree(target: Target) -> None:
    command = shell(MAKES_A_TREE, output_paths=["d"])
    first, second = [(await execute(target, command)).result.output_directories[0] for _ in range(2)]
    assert first.tree_digest == second.tree_digest


async def test_dir_14_a_tree_has_each_directory_once(target: Target) -> None:
    made, _ = await made_tree(target)
    children = [digest_of(child.SerializeToString(deterministic=True)).hash for child in made.children]
    assert len(set(children)) == len(children)
    named = {node.digest.hash for directory in (made.root, *made.children) for node in directory.directories}
    assert set(children) == named
    # z and a hold the same.
    assert len(children) == 2


async def test_dir_15_a_tree_that_says_that_it_is_sorted_is(target: Target) -> None:
    response = await execute(target, shell(MAKES_A_TREE + "; mkdir -p d/a/deep/er", output_paths=["d"]))
    (directory,) = response.result.output_directories
    if not directory.is_topologically_sorted:
        pytest.skip("not testable here: it does not say so")
    records = list(records_of(await target.read(target.resource(directory.tree_digest))))
    assert [tag for tag, _ in records] == [0x0A] + [0x12] * (len(records) - 1)
    expected: set[str] = set()
    for number, (_, data) in enumerate(records):
        if number:
            assert digest_of(data).hash in expected, "a child comes before its parent, or has none"
        expected |= {node.digest.hash for node in pb.Directory.FromString(data).directories}
    assert len({data for _, data in records[1:]}) == len(records) - 1


@pytest.mark.parametrize("form", [FORM.TREE_ONLY, FORM.DIRECTORY_ONLY, FORM.TREE_AND_DIRECTORY])
async def test_dir_16_the_root_is_that_of_the_tree(target: Target, form: int) -> None:
    directory = await made_directory(target, form)
    if directory.HasField("root_directory_digest"):
        made = pb.Tree.FromString(await target.read(target.resource(directory.tree_digest)))
        assert digest_of(made.root.SerializeToString(deterministic=True)) == directory.root_directory_digest


@pytest.mark.parametrize("form", [FORM.DIRECTORY_ONLY, FORM.TREE_AND_DIRECTORY])
async def test_dir_17_directories_that_are_asked_for_are_there_one_by_one(target: Target, form: int) -> None:
    directory = await made_directory(target, form)
    assert directory.HasField("root_directory_digest")
    found = await directories_below(target, directory.root_directory_digest)
    names = {node.name for one in found for node in one.files}
    assert {"f", "b", "Z"} <= names


@pytest.mark.parametrize("form", [FORM.TREE_ONLY, FORM.DIRECTORY_ONLY, FORM.TREE_AND_DIRECTORY])
async def test_dir_18_a_tree_is_always_there(target: Target, form: int) -> None:
    directory = await made_directory(target, form)
    made = pb.Tree.FromString(await target.read(target.resource(directory.tree_digest)))
    assert [file.name for file in made.root.files] == ["Z", "b"]


def directory_with(nodes: str, name: str) -> pb.Directory:
    """Return a directory with one node."""
    node: Mapping[str, object] = (
        {"name": name, "target": "f"} if nodes == "symlinks" else {"name": name, "digest": EMPTY}
    )
    return pb.Directory(**{nodes: [node]})  # type: ignore[arg-type]


def another(script: Script) -> Script:
    """Return *script* as one that nobody has executed."""
    return replace(script, action={"salt": fresh(16)})


async def action_in(target: Target, root: pb.Directory, text: str = "true", *outputs: str) -> pb.Digest:
    """Upload an action that runs *text* in the directory *root*."""
    return await upload_action(target, Script(text, output_paths=outputs), await put(target, root))


async def contents_in(target: Target, root: pb.Directory, text: str) -> bytes:
    """Run *text* in the directory *root*; return what the file "out" holds after it."""
    response = await run_action(target, await action_in(target, root, text, "out"))
    return await target.read(target.resource(output(response, "out").digest))


async def listing(target: Target, root: pb.Directory) -> list[str]:
    """Return what a command sees in the directory *root*."""
    seen = await contents_in(target, root, "LC_ALL=C ls > out")
    return sorted(set(seen.decode().split()) - {"out"})


async def made_directory(target: Target, form: int) -> pb.OutputDirectory:
    """Return the output directory of an action that makes one."""
    command = shell(MAKES_A_TREE, output_paths=["d"], output_directory_format=form)
    (directory,) = (await execute(target, command)).result.output_directories
    return directory


async def made_tree(target: Target) -> tuple[pb.Tree, bytes]:
    """Return a tree that a worker made, and its bytes."""
    directory = await made_directory(target, FORM.TREE_ONLY)
    data = await target.read(target.resource(directory.tree_digest))
    return pb.Tree.FromString(data), data


async def directories_below(target: Target, root: pb.Digest) -> list[pb.Directory]:
    """Return what GetTree sends."""
    request = pb.GetTreeRequest(instance_name=target.instance, root_digest=root)
    pages = target.streamed("ContentAddressableStorage/GetTree", request, pb.GetTreeResponse)
    return [directory async for page in pages for directory in page.directories]


def records_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each length-delimited record on the top level of a message."""
    position = 0
    while position < len(data):
        tag, length, shift = data[position], 0, 0
        position += 1
        while True:
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield tag, data[position : position + length]
        position += length
