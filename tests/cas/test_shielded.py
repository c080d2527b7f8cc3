"""What goes on when nobody waits for it any more fails quietly."""

from __future__ import annotations

import asyncio

import pytest

from gridwright.errors import Unavailable
from gridwright_cas.stores.shielded import shielded


async def test_work_goes_on_without_its_caller_and_its_error_is_nobodys() -> None:
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    work: asyncio.Future[None] = loop.create_future()
    caller = asyncio.create_task(shielded(work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not work.cancelled()
    work.set_exception(Unavailable("the disk fails"))
    await asyncio.sleep(0)
    del work
    assert told == []


async def test_a_caller_that_waits_hears_the_error() -> None:
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    work.set_exception(Unavailable("the disk fails"))
    with pytest.raises(Unavailable):
        await shielded(work)
