"""`gridwright cas` on a directory: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from gridwright_cli.cas.directory import MaintenanceFailed, maintenance
from tests.cas.maintained import LARGE, SHA256, fill, flip_byte_of, small_blobs
from tests.cli.cas_commands import command_line, gridwright_cas, gridwright_cas_here, words


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """A content_path with one storage domain, and some blobs in that."""
    await fill(tmp_path / "cas" / "main", {**small_blobs(3_000), SHA256.digest(LARGE): LARGE})
    return tmp_path / "cas"


def test_the_statistics(store: Path, tmp_path: Path) -> None:
    ended = gridwright_cas("stats", "cas", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[:4] == [
        "directory   cas/main",
        "blobs       3,001",
        "small       3,000, 3.0 MB",
        "large       1, 1.7 MB",
    ]
    assert lines[-2].split()[3:5] == ["100", "%"]
    assert json.loads(gridwright_cas_here("stats", "cas", "--json", cwd=tmp_path).stdout)["blobs"] == 3_001


def test_a_list_can_be_passed_on(store: Path, tmp_path: Path) -> None:
    listed = gridwright_cas_here("ls", store / "main", cwd=tmp_path).stdout.splitlines()
    assert len(listed) == 3_001
    long = gridwright_cas_here("ls", "cas", "--storage-domain", "main", "--long", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[-1] for line in long] == listed
    removed = gridwright_cas("rm", "cas", "-", cwd=tmp_path, stdin="\n".join(long[:2_000]).encode())
    assert removed.returncode == 122  # the first column is no digest
    removed = gridwright_cas("rm", "cas", "-", cwd=tmp_path, stdin="\n".join(listed[:2_000]).encode())
    assert removed.stdout.startswith("removed 2,000 blobs, ")
    compacted = gridwright_cas_here("compact", "cas", cwd=tmp_path)
    assert (compacted.returncode, compacted.stderr) == (0, "")
    assert compacted.stdout.startswith("rewrote ")
    assert gridwright_cas_here("ls", "cas", cwd=tmp_path).stdout.splitlines() == listed[2_000:]
    assert gridwright_cas_here("verify", "cas", cwd=tmp_path).returncode == 0


def test_a_list_that_nobody_reads_to_its_end(store: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command_line("ls", "cas"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.readline()
        listing.stdout.close()
        assert listing.wait(30) == 125
        assert listing.stderr.read() == b""


def test_ctrl_c_ends_both_processes(store: Path, tmp_path: Path) -> None:
    command = command_line("ls", "cas", "--long")
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        # More than the pipe holds is still to come, so it cannot have ended.
        listing.stdout.readline()
        os.killpg(listing.pid, signal.SIGINT)
        assert listing.wait(30) == 130
        assert listing.stderr.read() == b""
        with pytest.raises(ProcessLookupError):
            os.killpg(listing.pid, 0)
    assert gridwright_cas_here("verify", "cas", cwd=tmp_path).stdout == "checked 3,001 blobs, 4.7 MB: 0 bad\n"


def test_rot_is_named_and_taken_out(store: Path, tmp_path: Path) -> None:
    large = SHA256.digest(LARGE)
    flip_byte_of(store / "main", large)
    found = gridwright_cas_here("verify", "cas", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stdout.startswith(f"{large}: wrong checksum (large file ")
    assert found.stdout.endswith("checked 3,001 blobs, 4.7 MB: 1 bad\n")
    fetched = gridwright_cas_here("get", "cas", str(large), "-o", "file", cwd=tmp_path)
    assert (fetched.returncode, fetched.stderr) == (123, f"gridwright: the stored copy of blob {large} is corrupt\n")
    assert not (tmp_path / "file").exists()
    repaired = gridwright_cas_here("verify", "cas", "--repair", cwd=tmp_path)
    assert repaired.stdout.endswith("1 bad, 1 of them taken out\n")
    assert gridwright_cas_here("verify", "cas", cwd=tmp_path).returncode == 0


def test_files_come_and_go(store: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new" * 1_000_000)
    put = gridwright_cas_here("put", "cas", "new", "-", cwd=tmp_path, stdin=b"\xff from stdin")
    assert (put.returncode, put.stderr) == (0, "")
    new, stdin = put.stdout.split()
    copied = gridwright_cas_here("get", "cas", new, "-o", "copy", cwd=tmp_path)
    assert (copied.returncode, copied.stderr) == (0, "")
    assert (tmp_path / "copy").read_bytes() == b"new" * 1_000_000
    fetched = gridwright_cas("get", "cas", stdin, cwd=tmp_path)
    assert fetched.stdout.encode(errors="surrogateescape") == b"\xff from stdin"
    absent = f"{'ab' * 32}/5"
    removed = gridwright_cas_here("rm", "cas", stdin, absent, cwd=tmp_path)
    assert (removed.returncode, removed.stdout) == (1, f"{absent}: not found\nremoved 1 blob, 12 bytes\n")
    gone = gridwright_cas_here("get", "cas", stdin, "-o", "gone", cwd=tmp_path)
    assert (gone.returncode, gone.stderr) == (123, f"gridwright: blob {stdin} not found\n")


def test_progress_is_drawn_on_a_terminal(store: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command_line("verify", "cas"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        drawn = _read_to_end(ours)
        assert process.stdout is not None
        assert process.stdout.read() == b"checked 3,001 blobs, 4.7 MB: 0 bad\n", drawn
    assert "checking" in drawn


def _read_to_end(terminal: int) -> str:
    """Return all that is drawn on a terminal, which must be read meanwhile: it holds little."""
    drawn = b""
    with suppress(OSError):  # EIO is how the end looks
        while some := os.read(terminal, 4096):
            drawn += some
    os.close(terminal)
    return drawn.decode()


def test_a_process_that_fails_without_a_word_is_no_success() -> None:
    with (
        maintenance("no such command", [], lambda report: None) as messages,
        pytest.raises(MaintenanceFailed, match="failed with status 2") as caught,
    ):
        list(messages)
    assert caught.value.status == 123


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["stats", "."], 0, ""),
        (["stats", "cas", "--storage-domain", "other"], 125, "has no storage domain 'other'; there is 'main'"),
        (["ls", "elsewhere"], 125, "elsewhere is no segment store and holds none"),
        (["verify", "cas", f"{'ab' * 32}/5"], 2, "a directory is checked as a whole"),
        (["ls", "cas", "--tree", f"{'ab' * 32}/5"], 2, "trees are listed from an endpoint"),
        (["ls", "cas", "--prefix", "XY"], 2, "'XY' begins no hash"),
        (["compact", "cas", "--live-below", "0"], 2, "--live-below"),
        (["rm", "cas"], 2, "say which: HASH/SIZE"),
    ],
)
def test_what_makes_no_sense_is_explained(
    store: Path, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    where = store if arguments[1] == "." else tmp_path
    ended = gridwright_cas_here(*arguments, cwd=where)
    assert ended.returncode == status
    assert said in words(ended.stderr)
