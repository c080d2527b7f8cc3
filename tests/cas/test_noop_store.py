"""NoopStore takes everything and keeps nothing."""

from __future__ import annotations

import pytest

from gridwright.digest import DigestFunction
from gridwright.errors import BlobNotFound, DigestMismatch
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright_cas.stores.noop import NoopStore
from gridwright_cas.stores.verified import VerifiedStore

SHA256 = DigestFunction.SHA256
DIGEST = SHA256.digest(b"x")


async def test_what_is_put_is_not_there() -> None:
    store = NoopStore()
    await store.put(DIGEST, chunks_of(b"x"))
    assert await store.put_many({DIGEST: b"x"}) == {DIGEST: None}
    assert await store.missing({DIGEST}) == {DIGEST}
    with pytest.raises(BlobNotFound):
        await read_all(store, DIGEST)
    assert isinstance((await store.get_many([DIGEST]))[DIGEST], BlobNotFound)


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_the_empty_blob_is_there_even_here(function: DigestFunction) -> None:
    store = NoopStore()
    assert await store.missing({function.empty}) == set()
    assert await read_all(store, function.empty) == b""
    assert await store.get_many([function.empty]) == {function.empty: b""}


async def test_uploads_are_heard_to_the_end_so_that_they_can_be_checked() -> None:
    with pytest.raises(DigestMismatch):
        await VerifiedStore(NoopStore()).put(DIGEST, chunks_of(b"y"))


async def test_it_announces_the_removals_of_which_there_are_none() -> None:
    store = NoopStore()
    store.on_removal(lambda digests: pytest.fail("nothing was there"))
    assert store.announces_removals
