"""Reads from any offset, of any length, compressed or not."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.blobs import digest_of
from tests.conformance.compressors import decompress
from tests.fuzz.cas_under_fire import INVALID, OK, OUT_OF_RANGE, CasUnderFire
from tests.fuzz.effort import effort

_MIB = 2**20
#: About the ends of the blocks that stores keep large blobs in.
SIZES = [0, 1, 100, 65_536, _MIB - 1, _MIB, _MIB + 1, 3 * _MIB + 7]
INT64 = (-(2**63), 2**63 - 1)

edges = st.sampled_from([*SIZES, *INT64, -1, 2 * _MIB]).flatmap(
    lambda edge: st.integers(max(edge - 2, INT64[0]), min(edge + 2, INT64[1]))
)
numbers = st.one_of(st.just(0), edges, st.integers(0, 4 * _MIB), st.integers(*INT64))


@cache
def blob_of(size: int) -> bytes:
    """Return bytes of which half can be compressed."""
    text = b"".join(
        number.to_bytes(4) + digest_of(b"%d" % number).hash[:28].encode() for number in range(size // 32 + 1)
    )
    return text[:size]


@effort()
@given(size=st.sampled_from(SIZES), offset=numbers, limit=numbers, compressor=st.sampled_from(["", "zstd", "deflate"]))
def test_a_read_gives_the_part_that_was_asked_for_or_is_refused(
    each_cas: CasUnderFire, size: int, offset: int, limit: int, compressor: str
) -> None:
    blob = blob_of(size)
    digest = digest_of(blob)
    if each_cas.is_missing(digest):
        each_cas.put(blob)
    kind = f"compressed-blobs/{compressor}" if compressor else "blobs"
    code, data = each_cas.read(f"main/{kind}/{digest.hash}/{size}", offset, limit)
    if not 0 <= offset <= size:
        assert code is OUT_OF_RANGE
    elif limit < 0 or (limit and compressor):
        assert code is INVALID
    else:
        assert code is OK
        if compressor and data:
            data = decompress(compressor.upper(), data)
        assert data == blob[offset : offset + limit if limit else None]
