"""queue.validation: which Actions and Commands are refused."""

from __future__ import annotations

import pytest

from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.queue.validation import check_platform, timeout_seconds


def test_an_action_without_a_timeout_leaves_it_to_the_server() -> None:
    """POL-05, POL-07."""
    assert timeout_seconds(pb.Action(), longest_seconds=60) is None
    assert timeout_seconds(pb.Action(timeout={"seconds": 0}), longest_seconds=60) is None
    assert timeout_seconds(pb.Action(timeout={"seconds": 3, "nanos": 500_000_000}), longest_seconds=60) == 3.5


@pytest.mark.parametrize("seconds", [-1, 61, 864_000])
def test_a_timeout_that_makes_no_sense_is_refused(seconds: int) -> None:
    """POL-08, ERR-16."""
    with pytest.raises(InvalidRequest):
        timeout_seconds(pb.Action(timeout={"seconds": seconds}), longest_seconds=60)


def test_two_operating_systems_are_refused_and_two_instruction_sets_are_not() -> None:
    """PLAT-05, PLAT-06."""

    def action(name: str) -> pb.Action:
        return pb.Action(platform={"properties": [{"name": name, "value": "1"}, {"name": name, "value": "2"}]})

    check_platform(action("ISA"), pb.Command())
    with pytest.raises(InvalidRequest):
        check_platform(action("OSFamily"), pb.Command())
