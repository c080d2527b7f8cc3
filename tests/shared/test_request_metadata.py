"""RequestMetadata in headers (checklist HDR)."""

import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import CallMetadata
from gridwright.wire.request_metadata import KEY, kept_metadata, metadata_of, request_metadata


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


def test_hdr_03_what_is_kept_are_the_bytes_that_were_sent() -> None:
    sent = pb.RequestMetadata(target_id="//a:b").SerializeToString() + b"\xf2\x3e\x03abc"
    assert kept_metadata(CallMetadata(((KEY, sent),))) == sent


@pytest.mark.parametrize("headers", [(), ((KEY, b"\xff"),), ((KEY, b"\x0a\x85\x80\x01" + bytes(0x4005)),)])
def test_hdr_03_what_is_unreadable_or_too_long_for_a_trailer_is_not_kept(
    headers: tuple[tuple[str, bytes], ...],
) -> None:
    assert kept_metadata(CallMetadata(headers)) == b""
