import os
from pathlib import Path

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_cli.execute.input_tree import InputTree, UnusableInput, read_input_tree

SHA256 = DigestFunction.SHA256


def root_of(tree: InputTree) -> pb.Directory:
    return directory(tree, tree.root)


def directory(tree: InputTree, digest: Digest) -> pb.Directory:
    data = tree.blobs[digest]
    assert isinstance(data, bytes)
    assert SHA256.digest(data) == digest
    return pb.Directory.FromString(data)


def test_a_directory_becomes_a_merkle_tree(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner").write_bytes(b"inner")
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "text").write_bytes(b"text")
    (tmp_path / "link").symlink_to("sub/inner")
    (tmp_path / "dangling").symlink_to("/no/such")

    tree = read_input_tree(tmp_path, SHA256)

    root = root_of(tree)
    assert [(file.name, file.is_executable) for file in root.files] == [("text", False), ("tool", True)]
    assert [(link.name, link.target) for link in root.symlinks] == [("dangling", "/no/such"), ("link", "sub/inner")]
    [node] = root.directories
    sub = directory(tree, Digest(SHA256, node.digest.hash, node.digest.size_bytes))
    assert [file.name for file in sub.files] == ["inner"]
    assert tree.blobs[SHA256.digest(b"inner")] == tmp_path / "sub" / "inner"
    assert len(tree.blobs) == 5


def test_names_are_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    for name in ["b", "a", "Z", "é", "a.b"]:
        (tmp_path / name).touch()
    assert [file.name for file in root_of(read_input_tree(tmp_path, SHA256)).files] == ["Z", "a", "a.b", "b", "é"]


def test_equal_trees_have_equal_digests(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("same")
    one, two = (read_input_tree(tmp_path / name, SHA256).root for name in ("one", "two"))
    assert one == two


def test_no_directory_is_the_empty_one() -> None:
    tree = read_input_tree(None, SHA256)
    assert tree.root == SHA256.empty
    assert root_of(tree) == pb.Directory()


def test_a_pipe_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnusableInput, match=r"/pipe is neither a file"):
        read_input_tree(tmp_path, SHA256)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    with pytest.raises(UnusableInput, match=r"caf\\xe9' is not UTF-8"):
        read_input_tree(tmp_path, SHA256)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="absent: No such file"):
        read_input_tree(tmp_path / "absent", SHA256)
