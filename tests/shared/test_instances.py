"""Instances, found by the names that clients send."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gridwright.digest import DigestFunction
from gridwright.errors import UnknownInstance
from gridwright.instances import RESERVED_SEGMENTS, Instances, InstanceSettings, InstancesSettings


def test_an_instance_is_found_by_its_name_and_its_aliases() -> None:
    instances = Instances([InstanceSettings(name="main", aliases=("default", "old/name")), InstanceSettings(name="b")])
    assert instances["default"] is instances["old/name"] is instances["main"]
    assert instances["b"] is not instances["main"]
    assert [instance.name for instance in instances] == ["main", "b"]


def test_the_empty_name_is_the_first_instance_unless_another_claims_it() -> None:
    first, second = InstanceSettings(name="a"), InstanceSettings(name="b")
    assert Instances([first, second])[""].name == "a"
    assert Instances([first, InstanceSettings(name="b", aliases=("",))])[""].name == "b"
    assert Instances([first, InstanceSettings(name="")])[""].name == ""


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    """INS-04."""
    instances = Instances([InstanceSettings(name="main", aliases=("x",)), InstanceSettings(name="a/b")])
    with pytest.raises(UnknownInstance, match="unknown instance name 'Main'; this endpoint serves 'main', 'a/b'"):
        instances["Main"]


@pytest.mark.parametrize("name", ["a", "a/b/c", "", "with space", "ünï", "blob", "a.b", "OPERATIONS"])
def test_a_name_may_hold_nearly_anything(name: str) -> None:
    assert InstanceSettings(name=name).name == name


@pytest.mark.parametrize("name", ["/", "/a", "a/", "a//b"])
def test_a_name_has_no_empty_segment(name: str) -> None:
    with pytest.raises(ValidationError, match="neither begins nor ends with '/'"):
        InstanceSettings(name=name)


@pytest.mark.parametrize("segment", sorted(RESERVED_SEGMENTS))
def test_words_of_resource_names_are_no_segments(segment: str) -> None:
    """INS-03."""
    for name in (segment, f"a/{segment}", f"{segment}/b"):
        with pytest.raises(ValidationError, match=f"{segment!r} cannot be a segment"):
            InstanceSettings(name=name)
    with pytest.raises(ValidationError):
        InstanceSettings(name="a", aliases=(segment,))


@pytest.mark.parametrize(
    "instances",
    [
        [{"name": "a"}, {"name": "a"}],
        [{"name": "a"}, {"name": "b", "aliases": ["a"]}],
        [{"name": "a", "aliases": ["x", "x"]}],
        [{"name": "a", "aliases": [""]}, {"name": ""}],
    ],
)
def test_a_name_means_one_instance(instances: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError, match="is given twice"):
        InstancesSettings.model_validate({"instances": instances})


def test_each_instance_has_storage_of_its_own_unless_told_to_share() -> None:
    instances = Instances(
        [InstanceSettings(name="a"), InstanceSettings(name="b", storage="a"), InstanceSettings(name="", storage="")]
    )
    assert [instance.storage for instance in instances] == ["a", "a", ""]


def test_a_hash_of_64_digits_is_sha256_where_that_is_used_and_blake3_elsewhere() -> None:
    """DIG-05, DIG-06."""
    every = Instances([InstanceSettings(name="a")])["a"]
    assert every.by_hash_length[64] is DigestFunction.SHA256
    assert every.by_hash_length[40] is DigestFunction.SHA1
    blake3 = Instances([InstanceSettings.model_validate({"name": "a", "digest_functions": ["blake3"]})])["a"]
    assert blake3.by_hash_length == {64: DigestFunction.BLAKE3}


def test_functions_are_written_in_lower_case_and_at_least_one() -> None:
    settings = InstanceSettings.model_validate({"name": "a", "digest_functions": ["sha512", "SHA256"]})
    assert settings.digest_functions == (DigestFunction.SHA512, DigestFunction.SHA256)
    with pytest.raises(ValidationError, match="at least 1 item"):
        InstanceSettings.model_validate({"name": "a", "digest_functions": []})


def test_a_read_only_instance_does_not_execute() -> None:
    with pytest.raises(ValueError, match="write execution: false beside it"):
        InstanceSettings(name="frozen", read_only=True)
    InstanceSettings(name="frozen", read_only=True, execution=False)
