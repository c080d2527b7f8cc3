import os
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright_cli.execute.output_files import UnusableOutput, fetch_outputs, not_produced

SHA256 = DigestFunction.SHA256


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(max_bytes=2**30)


async def kept(store: MemoryStore, data: bytes) -> pb.Digest:
    digest = SHA256.digest(data)
    await write_blob(store, digest, data)
    return digest_message(digest)


async def a_result(store: MemoryStore) -> pb.ActionResult:
    """A file, a tool, a large file, a link, and a directory that holds a directory, an empty one and a link."""
    inner = pb.Directory(files=[pb.FileNode(name="leaf", digest=await kept(store, b"leaf"), is_executable=True)])
    root = pb.Directory(
        directories=[
            pb.DirectoryNode(name="empty", digest=digest_message(SHA256.empty)),
            pb.DirectoryNode(name="inner", digest=digest_message(SHA256.digest(inner.SerializeToString()))),
        ],
        symlinks=[pb.SymlinkNode(name="link", target="inner/leaf")],
    )
    tree = pb.Tree(root=root, children=[inner, pb.Directory()])
    return pb.ActionResult(
        output_files=[
            pb.OutputFile(path="a/b/text", digest=await kept(store, b"text")),
            pb.OutputFile(path="tool", digest=await kept(store, b"#!"), is_executable=True),
            pb.OutputFile(path="large", digest=await kept(store, bytes(200_000))),
            pb.OutputFile(path="nothing", digest=digest_message(SHA256.empty)),
        ],
        output_symlinks=[pb.OutputSymlink(path="to", target="a/b/text")],
        output_directories=[pb.OutputDirectory(path="tree", tree_digest=await kept(store, tree.SerializeToString()))],
    )


async def test_every_kind_of_output_is_written(store: MemoryStore, tmp_path: Path) -> None:
    assert await fetch_outputs(store, await a_result(store), SHA256, tmp_path) == 5

    assert (tmp_path / "a/b/text").read_bytes() == b"text"
    assert (tmp_path / "large").read_bytes() == bytes(200_000)
    assert (tmp_path / "nothing").read_bytes() == b""
    assert (tmp_path / "tool").stat().st_mode & 0o111
    assert not (tmp_path / "a/b/text").stat().st_mode & 0o111
    assert (tmp_path / "tree/inner/leaf").stat().st_mode & 0o111
    assert (tmp_path / "tree/empty").is_dir()
    assert (tmp_path / "tree/link").read_bytes() == b"leaf"
    assert (tmp_path / "to").readlink() == Path("a/b/text")
    assert set(os.listdir(tmp_path)) == {"a", "large", "nothing", "to", "tool", "tree"}


async def test_what_was_there_is_replaced(store: MemoryStore, tmp_path: Path) -> None:
    result = await a_result(store)
    await fetch_outputs(store, result, SHA256, tmp_path)
    (tmp_path / "tool").write_bytes(b"old")
    await fetch_outputs(store, result, SHA256, tmp_path)
    assert (tmp_path / "tool").read_bytes() == b"#!"


async def test_bytes_that_are_not_those_of_the_digest_never_appear(store: MemoryStore, tmp_path: Path) -> None:
    digest = SHA256.digest(b"right")
    await store.put_many({digest: b"wrong"})
    result = pb.ActionResult(output_files=[pb.OutputFile(path="file", digest=digest_message(digest))])
    with pytest.raises(BlobCorrupted):
        await fetch_outputs(store, result, SHA256, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [5, 500_000])
async def test_an_output_that_has_gone_is_named(store: MemoryStore, tmp_path: Path, size_bytes: int) -> None:
    digest = Digest(SHA256, "a" * 64, size_bytes)
    result = pb.ActionResult(output_files=[pb.OutputFile(path="file", digest=digest_message(digest))])
    with pytest.raises(BlobNotFound, match="aaaa"):
        await fetch_outputs(store, result, SHA256, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up"])
async def test_a_path_that_leads_out_is_refused(store: MemoryStore, tmp_path: Path, path: str) -> None:
    digest = await kept(store, b"data")
    result = pb.ActionResult(output_files=[pb.OutputFile(path=path, digest=digest)])
    with pytest.raises(UnusableOutput, match="outside"):
        await fetch_outputs(store, result, SHA256, tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
async def test_a_name_in_a_tree_is_a_name_and_no_path(store: MemoryStore, tmp_path: Path, name: str) -> None:
    tree = pb.Tree(root=pb.Directory(files=[pb.FileNode(name=name, digest=await kept(store, b"data"))]))
    digest = await kept(store, tree.SerializeToString())
    result = pb.ActionResult(output_directories=[pb.OutputDirectory(path="tree", tree_digest=digest)])
    with pytest.raises(UnusableOutput, match="which is none"):
        await fetch_outputs(store, result, SHA256, tmp_path)


async def test_no_file_is_written_through_a_link_of_the_server(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (here := tmp_path / "here").mkdir()
    result = pb.ActionResult(
        output_files=[pb.OutputFile(path="out/file", digest=await kept(store, b"data"))],
        output_symlinks=[pb.OutputSymlink(path="out", target="../elsewhere")],
    )
    with pytest.raises(UnusableOutput, match="out"):
        await fetch_outputs(store, result, SHA256, here)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_was_not_made_is_named() -> None:
    result = pb.ActionResult(
        output_files=[pb.OutputFile(path="a/file")], output_directories=[pb.OutputDirectory(path="tree")]
    )
    assert not_produced(["a/file", "./tree/", "absent"], result) == ["absent"]
