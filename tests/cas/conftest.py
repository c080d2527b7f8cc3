"""A CAS to test against: its servicers over stores that the test chooses, on a real gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import Authenticator
from gridwright.auth.identity import Identity, Role
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.instances import Instances, InstanceSettings
from gridwright.settings import Address
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cas.stores.verified import VerifiedStore
from tests.cas.wire import CasWire

INSTANCES = Instances(
    [
        InstanceSettings(name="main"),
        InstanceSettings(name="a/b/c"),
        InstanceSettings.model_validate({"name": "b3", "digest_functions": ["blake3"]}),
    ]
)


class RolesInHeader(Authenticator):
    """Believes the header ``roles``; without it, a caller has all roles but that of an administrator."""

    def authenticate(self, metadata: Sequence[tuple[str, str | bytes]], peer: str) -> Identity:
        granted = next((str(value) for key, value in metadata if key == "roles"), None)
        roles = frozenset(Role) - {Role.ADMIN} if granted is None else frozenset(map(Role, granted.split()))
        return Identity("tester", roles)


@pytest.fixture
def stores() -> dict[str, BlobStore]:
    """The store of each storage domain; a test may look, or exchange one."""
    return {instance.storage: VerifiedStore(MemoryStore(max_bytes=2**30)) for instance in INSTANCES}


@pytest.fixture
async def cas(stores: dict[str, BlobStore]) -> AsyncIterator[CasWire]:
    """A connection to a CAS that keeps blobs in *stores*."""
    servicers: list[Servicer] = [CasServicer(INSTANCES, stores), ByteStreamServicer(INSTANCES, stores)]
    options = ServerOptions(
        listen=[Address("127.0.0.1:0")],
        authenticator=RolesInHeader(),
        registry=CollectorRegistry(),
        drain_seconds=0.5,
    )
    async with serving(servicers, options) as (port,), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield CasWire(channel, f"127.0.0.1:{port}")
