"""The command as a user runs it, where no grid is needed."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.version import VERSION
from gridwright_cli.capabilities import rows


def gridwright(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gridwright_cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_the_version() -> None:
    ended = gridwright("--version")
    assert (ended.returncode, ended.stdout) == (0, f"gridwright {VERSION}\n")


@pytest.mark.parametrize("command", [["capabilities"], ["execute", "--", "true"]])
def test_a_server_that_cannot_be_reached_is_one_clear_line(command: list[str], nobody: str) -> None:
    ended = gridwright(command[0], "--remote", f"grpc://{nobody}", *command[1:])
    assert ended.returncode == 121
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"gridwright: cannot reach grpc://{nobody}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("remote", ["grpcs://127.0.0.1:1", "localhost", "grpc://:", "grpc://host:port"])
def test_an_address_that_is_none_is_refused(remote: str) -> None:
    ended = gridwright("capabilities", "--remote", remote)
    assert ended.returncode == 2
    assert "grpc://HOST:PORT" in ended.stderr


@pytest.mark.parametrize("option", ["--env", "--platform"])
def test_a_pair_that_is_none_is_refused(option: str) -> None:
    ended = gridwright("execute", option, "novalue", "--", "true")
    assert ended.returncode == 2
    assert "KEY=VALUE" in ended.stderr


def test_execute_needs_a_command() -> None:
    assert gridwright("execute").returncode == 2


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = gridwright("up", "--port", str(port), "--data", tmp_path / "data")
    assert ended.returncode == 2
    assert ended.stderr == f"gridwright: port {port} of 127.0.0.1 is in use: choose another with --port\n"


def test_other_machines_are_not_let_in_by_accident(tmp_path: Path) -> None:
    ended = gridwright("up", "--host", "0.0.0.0", "--data", tmp_path / "data")
    assert ended.returncode == 2
    assert "--insecure" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_an_instance_name_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    ended = gridwright("up", "--instance", "a/blobs", "--data", tmp_path / "data")
    assert ended.returncode == 2
    assert "--instance a/blobs" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("slots", "status"), [(0, 2), (1, 0), (1000, 0), (1001, 2)])
def test_as_many_slots_as_a_scheduler_gives_one_worker(slots: int, status: int) -> None:
    assert gridwright("up", "--print-config", "--slots", str(slots)).returncode == status


def test_the_settings_can_be_seen_without_a_start(tmp_path: Path) -> None:
    ended = gridwright("up", "--print-config", "--slots", "3", "--port", "50100", cwd=tmp_path)
    assert ended.returncode == 0
    settings = yaml.safe_load(ended.stdout)
    assert settings["worker"]["slots"] == 3
    assert settings["gateway"]["listen"] == "127.0.0.1:50100"
    assert list(tmp_path.iterdir()) == []


def test_capabilities_are_told_in_words() -> None:
    answer = pb.ServerCapabilities(
        cache_capabilities=pb.CacheCapabilities(
            digest_functions=[pb.DigestFunction.SHA256, pb.DigestFunction.BLAKE3], max_batch_total_size_bytes=4_000_000
        ),
        execution_capabilities=pb.ExecutionCapabilities(exec_enabled=True),
    )
    answer.low_api_version.major = 2
    answer.high_api_version.major, answer.high_api_version.minor = 2, 12
    told = dict(rows(answer))
    assert told["API versions"] == "2.0 to 2.12"
    assert told["execution"] == "yes"
    assert told["digest functions"] == "SHA256, BLAKE3"
    assert told["largest batch"] == "4,000,000 bytes"
    assert told["action cache updates"] == "no"
