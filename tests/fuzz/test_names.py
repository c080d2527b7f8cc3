"""Resource names, made of parts of which it is known whether they are sound."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import QUERY_WRITE_STATUS, READ, WRITE
from tests.fuzz.cas_under_fire import INVALID, NOT_FOUND, OK, CasUnderFire
from tests.fuzz.effort import effort

HEXADECIMAL = "0123456789abcdef"


class Part(NamedTuple):
    """A part of a name, with the slash behind it."""

    text: str
    sound: bool = True


def sound(*texts: str) -> st.SearchStrategy[Part]:
    return st.sampled_from(texts).map(Part)


def unsound(*texts: str) -> st.SearchStrategy[Part]:
    return st.sampled_from(texts).map(lambda text: Part(text, False))


def mostly(good: st.SearchStrategy[Part], bad: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    """Of five parts one is bad, so that most names have one or two bad parts, or none."""
    return st.integers(0, 4).flatmap(lambda number: good if number else bad)


segments = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=20)
#: Hashes that no blob has: the last digit is not random.
hashes = st.sampled_from([32, 40, 64, 96, 128]).flatmap(
    lambda length: st.text(HEXADECIMAL, min_size=length, max_size=length)
)
instances = mostly(sound("", "main/", "a/b/"), unsound("nobody/", "main//", "/main/", "MAIN/", "a/", "main/a/b/", "//"))
uploads = mostly(
    segments.filter(bool).map(lambda text: Part(f"uploads/{text}/")),
    st.sampled_from(["uploads//", f"uploads/{'x' * 201}/", "uploads/", "upload/x/", "Uploads/x/"]).map(
        lambda text: Part(text, False)
    ),
)
kinds = mostly(
    sound("blobs/", "compressed-blobs/zstd/", "compressed-blobs/deflate/", "compressed-blobs/brotli/"),
    unsound("blob/", "Blobs/", "compressed-blobs/", "compressed-blobs/lz4/", "compressed-blobs/identity/", ""),
)
functions = mostly(sound(""), unsound("sha256tree/", "SHA256/", "murmur3/", "nothing/", "/"))
digits = mostly(
    hashes.map(Part),
    st.one_of(
        hashes.map(lambda text: Part(f"{text[1:]}G", False)),
        hashes.map(lambda text: Part(f"{text}0", False)),
        hashes.map(lambda text: Part(f"A{text[1:]}", False)),
        segments.filter(lambda text: len(text) < 20).map(lambda text: Part(text, False)),
    ),
)
sizes = mostly(
    st.integers(1, 2**63 - 1).map(lambda size: Part(f"/{size}")),
    unsound("/-1", "/1.0", "/0x10", "/+5", "/", "", f"/{2**63}", f"/{'9' * 30}", "/5 ", "/1_0", "/٥", "/1e3"),
)
ends = st.lists(segments, max_size=3).map(lambda all: Part("".join(f"/{one}" for one in all)))
read_names = st.tuples(instances, kinds, functions, digits, sizes, ends)
write_names = st.tuples(instances, uploads, kinds, functions, digits, sizes, ends)
#: Names without rhyme or reason, but of the words that names have.
words = st.sampled_from(
    ["main", "a", "b", "uploads", "blobs", "compressed-blobs", "zstd", "sha1", "blake3", "5", "", "..", "\0", "a" * 64]
)
jumbles = st.one_of(st.text(max_size=300), st.lists(st.one_of(words, segments), max_size=12).map("/".join)).filter(
    lambda text: not any(0xD800 <= ord(letter) < 0xE000 for letter in text)
)


def joined(parts: tuple[Part, ...]) -> str:
    return "".join([part.text for part in parts])


@effort()
@given(parts=read_names)
def test_a_name_to_read_by_is_refused_exactly_if_a_part_of_it_is_unsound(
    cas: CasUnderFire, parts: tuple[Part, ...]
) -> None:
    code, data = cas.read(joined(parts))
    assert data == b""
    assert code is (NOT_FOUND if all(part.sound for part in parts) else INVALID)


@effort()
@given(parts=write_names)
def test_a_name_to_write_by_is_refused_exactly_if_a_part_of_it_is_unsound(
    cas: CasUnderFire, parts: tuple[Part, ...]
) -> None:
    name = joined(parts)
    expected = OK if all(part.sound for part in parts) else INVALID
    asked = cas.call(QUERY_WRITE_STATUS, [bs.QueryWriteStatusRequest(resource_name=name)])
    begun = cas.write([bs.WriteRequest(resource_name=name)])
    assert (asked.code, begun.code) == (expected, expected)
    if expected is OK:
        assert (asked.message.committed_size, asked.message.complete) == (0, False)
        assert begun.message.committed_size == 0


@effort()
@given(name=jumbles)
def test_any_text_as_a_name_is_refused(cas: CasUnderFire, name: str) -> None:
    assert cas.read(name)[0] in (INVALID, NOT_FOUND)
    cas.call(QUERY_WRITE_STATUS, [bs.QueryWriteStatusRequest(resource_name=name)])
    cas.write([bs.WriteRequest(resource_name=name)])


@effort(share=0.5)
@given(name=st.binary(max_size=300), method=st.sampled_from([READ, QUERY_WRITE_STATUS, WRITE]))
def test_a_name_that_is_no_text_is_refused(cas: CasUnderFire, name: bytes, method: object) -> None:
    data = b"\x0a" + bytes([len(name) & 0x7F | 0x80, len(name) >> 7]) + name
    assert cas.call(method, [data]).code in (OK, INVALID, NOT_FOUND)  # type: ignore[arg-type]  # of three types
