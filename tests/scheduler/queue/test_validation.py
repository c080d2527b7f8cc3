"""queue.validation: which Actions and Commands are refused."""

from __future__ import annotations

import pytest

from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.queue.validation import check_command, check_platform, timeout_seconds


def command(**fields: object) -> pb.Command:
    return pb.Command(**{"arguments": ["true"], **fields})  # type: ignore[arg-type]  # the fields of a Command


@pytest.mark.parametrize(
    "good",
    [
        command(),
        command(working_directory="sub/dir"),
        command(working_directory="a/b", output_paths=["../../x", ".", "../.."]),  # ACT-12, BuildStream
        command(working_directory="out", output_paths=["../gen/x"]),
        command(output_paths=["", "b", "a", "a"]),  # ACT-13, ACT-19: lenient
        command(output_files=["x"], output_directories=["x", ""]),  # ACT-16, ACT-18
        command(environment_variables=[{"name": "Z", "value": "1"}, {"name": "A", "value": ""}]),  # ACT-08
        command(output_node_properties=["mtime", "unix_mode"]),
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


def test_an_action_without_a_timeout_leaves_it_to_the_server() -> None:
    """POL-05, POL-08."""
    assert timeout_seconds(pb.Action(), longest_seconds=60) is None
    assert timeout_seconds(pb.Action(timeout={"seconds": 0}), longest_seconds=60) is None
    assert timeout_seconds(pb.Action(timeout={"seconds": 3, "nanos": 500_000_000}), longest_seconds=60) == 3.5


@pytest.mark.parametrize("seconds", [-1, 61, 864_000])
def test_a_timeout_that_makes_no_sense_is_refused(seconds: int) -> None:
    """POL-09, ERR-16."""
    with pytest.raises(InvalidRequest):
        timeout_seconds(pb.Action(timeout={"seconds": seconds}), longest_seconds=60)


def test_two_operating_systems_are_refused_and_two_instruction_sets_are_not() -> None:
    """PLAT-05, PLAT-06."""

    def action(name: str) -> pb.Action:
        return pb.Action(platform={"properties": [{"name": name, "value": "1"}, {"name": name, "value": "2"}]})

    check_platform(action("ISA"), pb.Command())
    with pytest.raises(InvalidRequest):
        check_platform(action("OSFamily"), pb.Command())
