"""Fixtures of the tests that see the action cache as a service."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.wire.rpc import Channel
from tests.actioncache.cas import FakeCas
from tests.actioncache.service import actioncache, serving_cas


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="gw-") as path:
        yield Path(path)


@pytest.fixture
async def cas(run: Path) -> AsyncIterator[FakeCas]:
    fake = FakeCas()
    async with serving_cas(fake, run):
        yield fake


@pytest.fixture
async def channel(run: Path, cas: FakeCas) -> AsyncIterator[Channel]:
    async with actioncache(run) as channel:
        yield channel


@pytest.fixture
def client(channel: Channel) -> ActionCacheClient:
    return ActionCacheClient(channel)
