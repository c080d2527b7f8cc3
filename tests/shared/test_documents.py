"""documents: which Commands are refused, by the scheduler and by workers alike."""

from __future__ import annotations

import pytest

from gridwright.documents import check_command, inside
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb


def command(**fields: object) -> pb.Command:
    return pb.Command(**{"arguments": ["true"], **fields})  # type: ignore[arg-type]  # the fields of a Command


@pytest.mark.parametrize(
    "good",
    [
        command(),
        command(working_directory="sub/dir"),
        command(working_directory="a/"),  # only output paths must not end so (ACT-11)
        command(working_directory="a/b", output_paths=["../../x", ".", "../.."]),  # ACT-12, BuildStream
        command(working_directory="out", output_paths=["../gen/x"]),
        command(output_paths=["", "b", "a", "a"]),  # ACT-13, ACT-19: lenient
        command(output_files=["x"], output_directories=["x", ""]),  # ACT-16, ACT-18
        command(environment_variables=[{"name": "Z", "value": "1"}, {"name": "A", "value": ""}]),  # ACT-08
        command(output_node_properties=["mtime", "unix_mode"]),
        command(output_node_properties=["MTime", "SubtreeReadOnly", "UnixMode"]),  # NOD-01: known, and left out
    ],
)
def test_what_clients_are_known_to_send_is_accepted(good: pb.Command) -> None:
    check_command(good)


@pytest.mark.parametrize(
    "bad",
    [
        pb.Command(),  # ACT-04
        pb.Command(arguments=[""]),
        command(working_directory="/tmp"),  # ACT-10
        command(working_directory="../x"),
        command(working_directory="a/../../b"),
        command(output_paths=["/abs"]),  # ACT-11
        command(output_paths=["a/"]),
        command(working_directory="a", output_paths=["../../x"]),  # ACT-12
        command(output_files=["../x"]),
        command(output_directories=["a/../../x"]),
        command(output_node_properties=["bogus"]),  # ACT-20
        command(output_paths=["a\0b"]),  # ACT-24
        command(arguments=["true", "\0"]),
        command(environment_variables=[{"name": "A", "value": "\0"}]),
        command(environment_variables=[{"name": "A=B", "value": ""}]),
    ],
)
def test_what_no_worker_should_run_is_refused(bad: pb.Command) -> None:
    with pytest.raises(InvalidRequest):
        check_command(bad)


def test_paths_are_seen_from_the_input_root_and_without_dots() -> None:
    assert inside("a/./b/", "", "f") == "a/b"
    assert inside("../gen/x", "out", "f") == "gen/x"
    assert inside("../..", "a/b", "f") == inside("", "", "f") == ""
