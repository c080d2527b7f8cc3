"""RequestMetadata in headers (checklist HDR)."""

import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import CallMetadata
from gridwright.wire.request_metadata import KEY, metadata_of, request_metadata


def test_hdr_03_all_that_a_tool_says_arrives() -> None:
    said = pb.RequestMetadata(
        tool_details={"tool_name": "bazel", "tool_version": "7"},
        action_id="a",
        tool_invocation_id="i",
        correlated_invocations_id="c",
        action_mnemonic="CppCompile",
        target_id="//:t",
        configuration_id="k",
    )
    assert request_metadata(CallMetadata(metadata_of(said))) == said


@pytest.mark.parametrize("headers", [(), ((KEY, b"\xff"),), ((KEY, b""),)])
def test_hdr_02_what_cannot_be_read_is_as_if_nothing_was_said(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert request_metadata(CallMetadata(headers)) == pb.RequestMetadata()
