"""Digest messages become Digests once they have been checked (conformance checklist, group DIG)."""

from __future__ import annotations

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest
from gridwright.instances import Instance, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import (
    child_digest,
    digest_function,
    digest_message,
    make_digest,
    read_digest,
    read_digests,
)

F = DigestFunction


def instance_with(*functions: str) -> Instance:
    return Instance.from_settings(InstanceSettings.model_validate({"name": "main", "digest_functions": functions}))


ALL = instance_with(*(function.name.lower() for function in F))


@pytest.mark.parametrize(
    ("function", "empty"),
    [
        (F.SHA256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (F.SHA1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (F.MD5, "d41d8cd98f00b204e9800998ecf8427e"),
        (F.SHA384, "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b"),
        (F.BLAKE3, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    ],
)
def test_the_empty_blob_has_the_digest_that_everybody_knows(function: F, empty: str) -> None:
    """DIG-16, LIF-01."""
    assert function.empty == function.digest(b"") == Digest(function, empty, 0)


def test_our_numbers_are_those_of_the_protocol() -> None:
    for function in F:
        assert pb.DigestFunction.Value.Name(int(function)) == function.name


@pytest.mark.parametrize("function", list(F))
def test_a_digest_survives_the_wire(function: F) -> None:
    digest = function.digest(b"hello")
    assert len(digest.hash) == function.hash_length
    assert read_digest(digest_message(digest), ALL, int(function)) == digest


@pytest.mark.parametrize("function", [one for one in F if one is not F.BLAKE3])
def test_a_function_that_is_not_named_is_told_by_the_length(function: F) -> None:
    """DIG-05, DIG-07."""
    digest = function.digest(b"hello")
    assert read_digest(digest_message(digest), ALL) == digest


def test_64_digits_without_a_function_are_sha256_where_that_is_used_and_else_blake3() -> None:
    """DIG-06."""
    assert digest_function(0, 64, ALL) is F.SHA256
    assert digest_function(0, 64, instance_with("blake3", "sha1")) is F.BLAKE3


@pytest.mark.parametrize("named", [4, 7, 8, 10, 99, -1])
def test_a_function_that_we_do_not_have_is_refused_and_the_usable_ones_are_named(named: int) -> None:
    """DIG-09."""
    with pytest.raises(InvalidDigest, match="usable are SHA256"):
        digest_function(named, 64, ALL)


def test_a_function_that_the_instance_does_not_use_is_refused() -> None:
    """DIG-09."""
    with pytest.raises(InvalidDigest, match="SHA512 is not used here"):
        digest_function(int(F.SHA512), 128, instance_with("sha256"))
    with pytest.raises(InvalidDigest, match="hashes of 40 characters"):
        digest_function(0, 40, instance_with("sha256"))


@pytest.mark.parametrize(
    ("hash_", "size"),
    [
        ("A" * 64, 1),
        ("a" * 63, 1),
        ("a" * 65, 1),
        ("g" * 64, 1),
        ("a" * 63 + "\n", 1),
        ("a" * 31 + "/" + "a" * 32, 1),
        ("٠" * 64, 1),
        ("a" * 64, -1),
        ("a" * 64, 2**63),
    ],
)
def test_what_is_no_digest_is_refused(hash_: str, size: int) -> None:
    """DIG-01, DIG-03, DIG-08."""
    with pytest.raises(InvalidDigest) as caught:
        make_digest(F.SHA256, hash_, size, field="blob_digests[3]")
    assert caught.value.field == "blob_digests[3]"


def test_a_message_that_was_not_sent_is_told_from_the_empty_blob() -> None:
    """DIG-04."""
    with pytest.raises(InvalidDigest, match="action_digest is required"):
        read_digest(pb.Digest(), ALL, field="action_digest")
    assert read_digest(digest_message(F.SHA256.empty), ALL) == F.SHA256.empty


def test_the_digests_of_one_request_are_of_one_function() -> None:
    """DIG-10."""
    digests = [function.digest(b"hello") for function in (F.SHA256, F.SHA256, F.SHA1)]
    assert read_digests(map(digest_message, digests[:2]), ALL) == digests[:2]
    with pytest.raises(InvalidDigest) as caught:
        read_digests(map(digest_message, digests), ALL, field="digests")
    assert caught.value.field == "digests[2]"


@pytest.mark.parametrize("place", [0, 1, 500, 999])
@pytest.mark.parametrize(
    ("hash_", "size"),
    [("A" * 64, 1), ("a" * 63, 1), ("a" * 65, 1), ("", 0), ("g" + "a" * 63, 1), ("a" * 63 + "ä", 1), ("a" * 64, -1)],
)
def test_one_bad_digest_among_a_thousand_is_named(place: int, hash_: str, size: int) -> None:
    """DIG-01, DIG-03, DIG-04: they are checked all at once, so the culprit has to be looked for."""
    messages = [digest_message(F.SHA256.digest(b"%d" % number)) for number in range(1000)]
    messages[place] = pb.Digest(hash=hash_, size_bytes=size)
    with pytest.raises(InvalidDigest) as caught:
        read_digests(messages, instance_with("sha256"), int(F.SHA256), field="blob_digests")
    assert caught.value.field == f"blob_digests[{place}]"


def test_lengths_that_make_up_for_each_other_are_no_digests() -> None:
    """DIG-01."""
    messages = [pb.Digest(hash="a" * length, size_bytes=1) for length in (64, 63, 65)]
    with pytest.raises(InvalidDigest) as caught:
        read_digests(messages, ALL, field="digests")
    assert caught.value.field == "digests[1]"


def test_what_is_read_are_digests() -> None:
    (digest,) = read_digests([digest_message(F.BLAKE3.empty)], ALL, int(F.BLAKE3))
    assert isinstance(digest, Digest)
    assert (digest.function, digest.size_bytes) == (F.BLAKE3, 0)
    assert str(digest) == str(F.BLAKE3.empty)


def test_no_digests_are_no_digests() -> None:
    assert read_digests([], ALL) == []


def test_a_digest_inside_a_document_has_the_function_of_the_document() -> None:
    """DIG-11."""
    parent = F.BLAKE3.digest(b"parent")
    child = F.BLAKE3.digest(b"child")
    assert child_digest(digest_message(child), parent, field="files") == child
    with pytest.raises(InvalidDigest):
        child_digest(digest_message(F.SHA1.digest(b"child")), parent, field="files")
