"""`gridwright cas` on an endpoint, and on the directory of the service behind it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from tests.cli.cas_commands import ADMIN, ENDPOINT, cas_service, gridwright_cas, gridwright_cas_here, words

SHA256 = DigestFunction.SHA256
ABSENT = f"{'ab' * 32}/5"
LARGE = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def here() -> Iterator[Path]:
    """The directory of a running CAS: short, as it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="gw-cas-") as name, cas_service(Path(name)):
        yield Path(name)


def test_what_is_put_comes_back(here: Path) -> None:
    (here / "large").write_bytes(LARGE)
    (here / "empty").write_bytes(b"")
    put = gridwright_cas_here("put", ENDPOINT, "large", "-", "empty", cwd=here, stdin=b"from stdin")
    large, stdin = SHA256.digest(LARGE), SHA256.digest(b"from stdin")
    assert (put.returncode, put.stdout, put.stderr) == (0, f"{large}\n{stdin}\n{SHA256.empty}\n", "")
    fetched = gridwright_cas_here("get", "--endpoint", ENDPOINT, str(large), "-o", "fetched", cwd=here)
    assert (fetched.returncode, fetched.stdout, fetched.stderr) == (0, "", "")
    assert (here / "fetched").read_bytes() == LARGE
    assert gridwright_cas("get", ENDPOINT, str(stdin), cwd=here).stdout == "from stdin"
    checked = gridwright_cas_here("verify", ENDPOINT, str(large), "-", cwd=here, stdin=f"{stdin} comment\n\n".encode())
    assert (checked.returncode, checked.stdout) == (0, "checked 2 blobs, 3.0 MB: 0 bad\n")


def test_another_digest_function(here: Path) -> None:
    put = gridwright_cas_here("put", ENDPOINT, "-", "--digest-function", "blake3", cwd=here, stdin=b"a blob")
    assert put.stdout == f"{DigestFunction.BLAKE3.digest(b'a blob')}\n"
    assert gridwright_cas("get", ENDPOINT, put.stdout.strip(), cwd=here).stdout == "a blob"


def test_a_blob_that_is_not_there_is_one_line_and_no_file(here: Path) -> None:
    (here / "mine").write_text("untouched")
    for output in ("mine", "new"):
        ended = gridwright_cas_here("get", ENDPOINT, ABSENT, "-o", output, cwd=here)
        assert (ended.returncode, ended.stdout) == (123, "")
        assert ended.stderr == f"gridwright: blob {ABSENT} not found\n"
    assert (here / "mine").read_text() == "untouched"
    assert not list(here.glob("*new*"))


def test_missing_blobs_are_named(here: Path) -> None:
    put = gridwright_cas_here("put", ENDPOINT, "-", cwd=here, stdin=b"there")
    ended = gridwright_cas_here("verify", ENDPOINT, ABSENT, put.stdout.strip(), cwd=here)
    assert ended.returncode == 1
    assert ended.stdout == f"{ABSENT}: not found\nchecked 2 blobs, 5 bytes: 1 bad\n"


def test_a_tree_is_listed(here: Path) -> None:
    (here / "a").write_bytes(b"file a")
    file = digest_message(SHA256.digest(b"file a"))
    leaf = pb.Directory(files=[pb.FileNode(name="a", digest=file, is_executable=True)])
    (here / "leaf").write_bytes(leaf.SerializeToString(deterministic=True))
    root = pb.Directory(
        files=[pb.FileNode(name="z", digest=file)],
        symlinks=[pb.SymlinkNode(name="link", target="z")],
        directories=[
            pb.DirectoryNode(name="gone", digest=digest_message(SHA256.digest(b"no directory"))),
            pb.DirectoryNode(name="sub", digest=digest_message(SHA256.digest((here / "leaf").read_bytes()))),
        ],
    )
    (here / "root").write_bytes(root.SerializeToString(deterministic=True))
    digest = gridwright_cas_here("put", ENDPOINT, "root", "leaf", "a", cwd=here).stdout.splitlines()[0]
    short = gridwright_cas_here("ls", ENDPOINT, "--tree", digest, cwd=here)
    assert short.stdout.splitlines() == ["z", "link -> z", "gone/ (missing)", "sub/", "sub/a"]
    long = gridwright_cas_here("ls", ENDPOINT, "--tree", digest, "--long", cwd=here)
    assert f"x    6 bytes {SHA256.digest(b'file a')} sub/a" in long.stdout
    ended = gridwright_cas_here("ls", ENDPOINT, "--tree", ABSENT, cwd=here)
    assert (ended.returncode, ended.stderr) == (123, f"gridwright: blob {ABSENT} not found\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls", ENDPOINT], "the protocol cannot list the blobs of an endpoint; with --tree DIGEST it lists"),
        (["rm", ENDPOINT, ABSENT], "the protocol has no way to remove a blob"),
        (["compact", ENDPOINT], "the protocol has no compaction"),
        (["verify", ENDPOINT], "the protocol cannot list blobs: name the digests"),
        (["verify", ENDPOINT, ABSENT, "--repair"], "an endpoint cannot be repaired from outside"),
        (["get", ENDPOINT, "abc"], "'abc' is no digest: write HASH/SIZE"),
        (["get", ENDPOINT], "one digest, not 0"),
        (["put", ENDPOINT], "say which: files, or - for standard input"),
        (["put", ENDPOINT, "a", "--digest-function", "crc"], "'crc' is none of SHA256, SHA1"),
        (["stats", ENDPOINT, "--admin", "nonsense"], "write HOST:PORT or unix:PATH"),
        (["stats", "nowhere"], "neither a directory here nor an endpoint such as grpc://HOST:PORT"),
        (["stats"], "say where"),
    ],
)
def test_what_makes_no_sense_is_explained(here: Path, arguments: list[str], said: str) -> None:
    ended = gridwright_cas_here(*arguments, cwd=here)
    assert ended.returncode == 2
    assert said in words(ended.stderr)


def test_a_file_that_cannot_be_read_is_named(here: Path) -> None:
    ended = gridwright_cas_here("put", ENDPOINT, "absent", cwd=here)
    assert (ended.returncode, ended.stderr) == (125, "gridwright: cannot read absent: No such file or directory\n")


def test_refusals_of_the_endpoint_pass_through(here: Path) -> None:
    ended = gridwright_cas_here("stats", ENDPOINT, "--instance", "nobody", cwd=here)
    assert ended.returncode == 122
    assert "unknown instance name 'nobody'" in ended.stderr
    ended = gridwright_cas_here("verify", "unix:nobody.sock", ABSENT, cwd=here)
    assert ended.returncode == 121
    assert ended.stderr.startswith("gridwright: cannot reach unix:nobody.sock: ")
    assert ended.stderr.count("\n") == 1


def test_an_endpoint_says_what_it_is(here: Path) -> None:
    plain = gridwright_cas_here("stats", ENDPOINT, cwd=here)
    assert plain.returncode == 0
    assert "digest functions         SHA256, SHA1" in plain.stdout
    assert "--admin" in plain.stdout
    found = json.loads(gridwright_cas_here("stats", ENDPOINT, "--admin", ADMIN, "--json", cwd=here).stdout)
    assert found["status"]["service"] == "cas"
    assert any(name.startswith("gridwright_cas_") for name in found["metrics"])
    ended = gridwright_cas_here("stats", ENDPOINT, "--admin", "unix:nobody.sock", cwd=here)
    assert ended.returncode == 121
    assert "cannot reach the admin port unix:nobody.sock" in ended.stderr


def test_its_directory_can_be_looked_after_while_it_serves(here: Path) -> None:
    (here / "large").write_bytes(LARGE)
    large, small = gridwright_cas_here("put", ENDPOINT, "large", "-", cwd=here, stdin=b"small").stdout.split()
    assert {large, small} <= set(gridwright_cas_here("ls", "store", cwd=here).stdout.split())
    assert gridwright_cas_here("verify", "store", cwd=here).stdout.endswith(": 0 bad\n")
    assert gridwright_cas_here("rm", "store", large, small, cwd=here).stdout == "removed 2 blobs, 3.0 MB\n"
    checked = gridwright_cas_here("verify", ENDPOINT, large, small, cwd=here)
    assert checked.stdout.splitlines()[:2] == [f"{large}: not found", f"{small}: not found"]
    assert gridwright_cas_here("compact", "store", "--live-below", "100", cwd=here).returncode == 0
    put = gridwright_cas_here("put", "store", "large", cwd=here)
    assert (put.returncode, put.stdout) == (0, f"{large}\n")
    assert gridwright_cas_here("verify", ENDPOINT, large, cwd=here).stdout == "checked 1 blob, 3.0 MB: 0 bad\n"
