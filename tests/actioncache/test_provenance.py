"""Where a result came from stays with it, and changes nothing about it."""

from __future__ import annotations

import os

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1 import stored_result_pb2
from gridwright_actioncache.results.provenance import (
    Provenance,
    of_unknown_origin,
    provenance_of,
    result_in,
    split_document,
    with_provenance,
)

ANN = Provenance("ann", "writer", 1_700_000_000.25, "worker-7")


@given(
    result=st.binary(max_size=300),
    subject=st.text(max_size=400),
    worker=st.text(max_size=400),
    seconds=st.integers(min_value=0, max_value=4_000_000_000),
)
def test_a_document_gives_back_what_went_into_it(result: bytes, subject: str, worker: str, seconds: int) -> None:
    provenance = Provenance(subject, "writer", float(seconds), worker)
    document = with_provenance(result, provenance)
    assert split_document(document) == (result, provenance)
    assert result_in(document) == result


def test_a_document_is_still_a_result_to_those_who_know_nothing_of_provenance() -> None:
    result = pb.ActionResult(exit_code=7)
    read = pb.ActionResult.FromString(with_provenance(result.SerializeToString(), ANN))
    assert read.exit_code == 7


def test_a_result_that_was_stored_without_it_reads_as_it_is() -> None:
    assert split_document(b"\x20\x07") == (b"\x20\x07", None)
    assert split_document(b"") == (b"", None)


def test_what_a_client_pretends_stays_a_part_of_its_result() -> None:
    forged = with_provenance(b"\x20\x07", Provenance("the scheduler", "scheduler", 1.0, "w"))
    assert split_document(with_provenance(forged, ANN)) == (forged, ANN)


def test_what_another_cache_pretends_is_not_where_its_result_came_from() -> None:
    for result in (b"\x20\x07", b"", with_provenance(b"\x20\x07", ANN)):
        document = of_unknown_origin(result)
        assert split_document(document) == (document, None)
        # Nothing is lost of it.
        assert document.endswith(result)
        assert pb.ActionResult.FromString(document).exit_code == pb.ActionResult.FromString(result).exit_code


def test_moments_that_no_calendar_has_are_no_reason_to_fail() -> None:
    message = stored_result_pb2.Provenance(written_at=Timestamp(seconds=10**15))
    document = stored_result_pb2.StoredResult(provenance=message).SerializeToString()
    assert provenance_of(document) == Provenance("", "", 1e15, "")


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_document_that_is_cut_short_is_no_reason_to_fail(cut: int) -> None:
    document = with_provenance(b"", ANN)
    result, provenance = split_document(document[:-cut])
    assert provenance is None
    assert result == document[:-cut]


def test_bytes_that_only_begin_like_a_document_are_a_result() -> None:
    tag = stored_result_pb2.StoredResult(provenance=stored_result_pb2.Provenance()).SerializeToString()[:-1]
    for rest in (b"", b"\xff" * 9, b"\x05\xff\xff\xff\xff\xff", b"\x7f" + os.urandom(3)):
        assert split_document(tag + rest) == (tag + rest, None)


def test_the_metadata_tells_where_nothing_else_does() -> None:
    result = pb.ActionResult()
    assert provenance_of(result.SerializeToString()) is None
    result.execution_metadata.worker = "worker-9"
    result.execution_metadata.worker_completed_timestamp.FromSeconds(120)
    assert provenance_of(result.SerializeToString()) == Provenance("", "", 120.0, "worker-9")
    assert provenance_of(with_provenance(result.SerializeToString(), ANN)) == ANN
    assert provenance_of(b"\xff\xff") is None
