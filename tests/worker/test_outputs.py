"""What of a command's outputs is reported, and how (checklist OUT, SYM, DIR-12 to 18, NOD)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from gridwright.blobs.store import read_blob
from gridwright.errors import FailedPrecondition, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.worker.actions import SHA256, Bench, Symlink, digest_of, message_of, names, shell


async def test_a_path_may_be_a_file_a_directory_or_a_symlink(bench: Bench) -> None:
    done = await bench.execute("echo f > f; mkdir d; echo x > d/x; ln -s f l", output_paths=["d", "f", "l"])
    assert await done.files() == {"f": "f\n"}
    assert [one.path for one in done.result.output_directories] == ["d"]
    assert [(one.path, one.target) for one in done.result.output_symlinks] == [("l", "f")]
    assert names((await done.tree("d")).root.files) == ["x"]


async def test_parents_of_outputs_are_made_and_outputs_are_not(bench: Bench) -> None:
    line = "test -d a/b && test ! -e a/b/c && test -d e && test ! -e e/d && echo > a/b/c"
    either: list[dict[str, Any]] = [
        {"output_paths": ["a/b/c", "e/d"]},
        {"output_files": ["a/b/c"], "output_directories": ["e/d"]},
    ]
    for fields in either:
        done = await bench.execute(line, **fields)
        assert done.exit_code == 0
        assert await done.files() == {"a/b/c": "\n"}
        assert not done.result.output_directories


async def test_an_output_may_lie_deep(bench: Bench) -> None:
    path = "/".join(["d"] * 1500)
    assert await (await bench.execute(f"echo x > {path}", output_paths=[path])).files() == {path: "x\n"}


async def test_an_output_deeper_than_any_path_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        await bench.execute("true", output_paths=["/".join(["d"] * 3000)])


async def test_a_parent_may_be_among_the_inputs(bench: Bench) -> None:
    done = await bench.execute("cp a/in a/out", {"a": {"in": "x"}}, output_paths=["a/out"])
    assert await done.files() == {"a/out": "x"}


async def test_a_file_in_the_place_of_a_parent_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="an input file is there"):
        await bench.execute("true", {"a": "file"}, output_paths=["a/b/c"])


async def test_outputs_that_were_not_made_are_left_out(bench: Bench) -> None:
    either: list[dict[str, Any]] = [
        {"output_paths": ["f", "x/y"]},
        {"output_files": ["f"], "output_directories": ["d"]},
    ]
    for fields in either:
        done = await bench.execute("true", **fields)
        assert not done.result.output_files
        assert not done.result.output_directories


async def test_outputs_come_back_also_when_the_command_fails(bench: Bench) -> None:
    done = await bench.execute("echo log > log; exit 7", output_paths=["log"])
    assert (done.exit_code, await done.files()) == (7, {"log": "log\n"})


async def test_only_what_was_declared_comes_back_each_once(bench: Bench) -> None:
    done = await bench.execute("touch a b", output_paths=["a", "a"])
    assert [one.path for one in done.result.output_files] == ["a"]


async def test_output_paths_hide_the_older_fields(bench: Bench) -> None:
    done = await bench.execute("touch a b; mkdir c", output_paths=["a"], output_files=["b"], output_directories=["c"])
    assert [one.path for one in done.result.output_files] == ["a"]
    assert not done.result.output_directories


async def test_an_input_in_the_place_of_an_output_is_an_output(bench: Bench) -> None:
    done = await bench.execute("true", {"in": "x"}, output_paths=["in"])
    assert await done.files() == {"in": "x"}


async def test_the_executable_bit_of_the_owner_counts(bench: Bench) -> None:
    done = await bench.execute("touch a b c; chmod 744 a; chmod 655 b; chmod 0 c", output_paths=["a", "b", "c"])
    assert [(one.path, one.is_executable) for one in done.result.output_files] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


@pytest.mark.parametrize(
    ("working_directory", "path", "holds"),
    [("", ".", "wd"), ("", "", "wd"), ("wd/sub", "../..", "wd"), ("wd", "../wd/sub", "made"), ("wd/sub", "", "made")],
)
async def test_paths_with_dots_are_taken_from_the_working_directory_and_echoed(
    bench: Bench, working_directory: str, path: str, holds: str
) -> None:
    inputs = {"wd": {"sub": {"f": "x"}}}
    line = "true" if holds == "wd" else "touch $(find . -name f | sed 's/f$/made/')"
    done = await bench.execute(line, inputs, working_directory=working_directory, output_paths=[path])
    root = (await done.tree(path)).root
    assert holds in names(root.directories) + names(root.files)


async def test_a_tree_has_each_distinct_directory_once_parents_first(bench: Bench) -> None:
    line = "mkdir -p d/a/same/deep d/b/same/deep d/same/deep; touch d/a/x d/a/same/deep/f d/b/same/deep/f d/same/deep/f"
    done = await bench.execute(line, output_paths=["d"], output_directory_format=pb.Command.TREE_AND_DIRECTORY)
    [directory] = done.result.output_directories
    assert directory.is_topologically_sorted
    tree = await done.tree("d")
    listed = [tree.root, *tree.children]
    digests = [SHA256.digest(one.SerializeToString(deterministic=True)) for one in listed]
    # root, a, b, same, deep
    assert len(set(digests)) == len(digests) == 5
    for index, one in enumerate(listed):
        for child in one.directories:
            assert digests.index(digest_of(child.digest)) > index
    # One record of field 1, then records of field 2 only.
    raw = await read_blob(bench.store, digest_of(directory.tree_digest))
    assert raw[0] == 0x0A
    assert raw == b"\x0a" + _record(tree.root) + b"".join(b"\x12" + _record(one) for one in tree.children)
    assert digest_of(directory.root_directory_digest) == digests[0]
    assert await bench.store.missing(set(digests)) == set()


def _record(message: pb.Directory) -> bytes:
    data = message.SerializeToString(deterministic=True)
    size, prefix = len(data), b""
    while size > 127:
        prefix += bytes([size & 127 | 128])
        size >>= 7
    return prefix + bytes([size]) + data


@pytest.mark.parametrize(("format_", "has_root"), [(0, False), (pb.Command.DIRECTORY_ONLY, True), (77, False)], ids=str)
async def test_the_tree_digest_is_always_there_and_the_root_when_asked_for(
    bench: Bench, format_: int, has_root: bool
) -> None:
    done = await bench.execute(shell("mkdir d", output_paths=["d"], output_directory_format=format_))
    [directory] = done.result.output_directories
    assert directory.tree_digest.hash
    assert bool(directory.root_directory_digest.hash) is has_root


async def test_an_empty_directory_is_a_tree_with_an_empty_root(bench: Bench) -> None:
    done = await bench.execute("mkdir d", output_paths=["d"])
    assert await done.tree("d") == pb.Tree(root=pb.Directory())


async def test_directories_are_in_canonical_form(bench: Bench) -> None:
    done = await bench.execute("mkdir d; cd d; touch b a Z ä; mkdir y x; ln -s q n; ln -s q m", output_paths=["d"])
    root = (await done.tree("d")).root
    assert names(root.files) == ["Z", "a", "b", "ä"]
    assert names(root.directories) == ["x", "y"]
    assert names(root.symlinks) == ["m", "n"]


async def test_symlinks_are_never_followed(bench: Bench) -> None:
    line = "ln -s /etc/hosts abs; ln -s nowhere dangling; mkdir d; ln -s d todir; ln -s /etc d/l"
    done = await bench.execute(line, output_paths=["abs", "d", "dangling", "todir"])
    assert [(one.path, one.target) for one in done.result.output_symlinks] == [
        ("abs", "/etc/hosts"),
        ("dangling", "nowhere"),
        ("todir", "d"),
    ]
    assert [(one.name, one.target) for one in (await done.tree("d")).root.symlinks] == [("l", "/etc")]
    assert not done.result.output_files


async def test_an_older_client_gets_symlinks_in_the_older_fields(bench: Bench) -> None:
    done = await bench.execute(
        "touch f; mkdir d; ln -s f lf; ln -s d ld; ln -s no dangling",
        output_files=["lf", "dangling"],
        output_directories=["ld"],
    )
    assert [one.path for one in done.result.output_file_symlinks] == ["lf", "dangling"]
    assert [one.path for one in done.result.output_directory_symlinks] == ["ld"]
    assert not done.result.output_symlinks


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("mkdir o", {"output_files": ["o"]}),
        ("touch o", {"output_directories": ["o"]}),
        ("ln -s / o", {"output_files": ["o"]}),
        ("touch f; ln -s f o", {"output_directories": ["o"]}),
    ],
)
async def test_an_older_clients_output_of_the_wrong_kind_is_an_error(
    bench: Bench, line: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(FailedPrecondition, match="'o' was declared in"):
        await bench.execute(line, **fields)


@pytest.mark.parametrize(("line", "files", "directories"), [("mkdir o", 0, 1), ("touch o", 1, 0)])
async def test_a_path_in_both_older_fields_is_whichever_it_turns_out_to_be(
    bench: Bench, line: str, files: int, directories: int
) -> None:
    done = await bench.execute(line, output_files=["o"], output_directories=["o"])
    assert (len(done.result.output_files), len(done.result.output_directories)) == (files, directories)


async def test_an_output_directory_may_hold_other_outputs(bench: Bench) -> None:
    done = await bench.execute("mkdir -p a/b; touch a/c", output_directories=["a", "a/b"], output_files=["a/c"])
    assert sorted(one.path for one in done.result.output_directories) == ["a", "a/b"]
    assert [one.path for one in done.result.output_files] == ["a/c"]


async def test_a_special_file_is_an_error_and_blocks_nothing(bench: Bench) -> None:
    with pytest.raises(FailedPrecondition, match="neither file nor directory"):
        await bench.execute("mkfifo out", output_paths=["out"])
    with pytest.raises(FailedPrecondition, match="neither file nor directory"):
        await bench.execute("mkdir d; mkfifo d/p", output_paths=["d"])


async def test_a_name_that_is_not_utf8_is_an_error(bench: Bench) -> None:
    with pytest.raises(FailedPrecondition, match="UTF-8"):
        await bench.execute(r"mkdir d; touch d/$(printf '\377')", output_paths=["d"])


async def test_a_symlink_of_the_inputs_does_not_lead_outputs_outside(bench: Bench) -> None:
    outside = bench.directory / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    with pytest.raises(InvalidRequest, match="leaves the input root"):
        await bench.execute("true", {"d": Symlink(str(outside))}, output_paths=["d/sub/x"])
    assert [path.name for path in outside.iterdir()] == ["secret"]
    with pytest.raises(FailedPrecondition, match="leaves the input root"):
        await bench.execute(f"rmdir d; ln -s {outside} d", output_paths=["d/secret"])


async def test_a_symlink_within_the_inputs_may_lead_to_an_output(bench: Bench) -> None:
    done = await bench.execute("echo x > l/out", {"d": {}, "l": Symlink("d")}, output_paths=["l/out"])
    assert await done.files() == {"l/out": "x\n"}


async def test_large_and_many_outputs_arrive_whole(bench: Bench) -> None:
    line = "zeros() { head -c $1 /dev/zero; }; mkdir d; for i in $(seq 300); do echo $i > d/$i; done"
    line += "; zeros 5000000 > big; zeros 70000 > d/m"
    done = await bench.execute(line, output_paths=["big", "d"])
    tree = await done.tree("d")
    digests = {digest_of(one.digest) for one in done.result.output_files}
    digests |= {digest_of(one.digest) for one in tree.root.files}
    assert len(digests) == 302
    assert await bench.store.missing(digests) == set()
    assert done.result.output_files[0].digest == message_of(SHA256.digest(bytes(5_000_000)))


async def test_nothing_is_inlined(bench: Bench) -> None:
    done = await bench.execute("echo x > f; echo y", output_paths=["f"])
    assert (done.result.output_files[0].contents, done.result.stdout_raw) == (b"", b"")


async def test_node_properties_are_those_that_were_asked_for(bench: Bench) -> None:
    line = "touch -d @1000000 f; chmod 640 f; mkdir d; touch d/x; ln -s f l"
    paths = ["d", "f", "l"]
    done = await bench.execute(line, output_paths=paths, output_node_properties=["mtime", "unix_mode"])
    properties = done.result.output_files[0].node_properties
    assert (properties.mtime.seconds, properties.unix_mode.value) == (1_000_000, 0o640)
    assert (await done.tree("d")).root.files[0].node_properties.HasField("mtime")
    assert done.result.output_symlinks[0].node_properties.HasField("mtime")
    done = await bench.execute(line, output_paths=paths, output_node_properties=["mtime"])
    assert not done.result.output_files[0].node_properties.HasField("unix_mode")
    done = await bench.execute(line, output_paths=paths, output_node_properties=["MTime", "SubtreeReadOnly"])
    assert not done.result.output_files[0].HasField("node_properties")  # known, and left out
    done = await bench.execute(line, output_paths=paths)
    assert not done.result.output_files[0].HasField("node_properties")
    assert not (await done.tree("d")).root.HasField("node_properties")


async def test_a_socket_among_outputs_blocks_nothing(bench: Bench, tmp_path: Path) -> None:
    """A socket file cannot be opened for reading, only refused."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(FailedPrecondition):
            await bench.execute(f"mkdir d; mv {tmp_path}/s d/s", output_paths=["d"])
