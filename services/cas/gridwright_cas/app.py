"""The CAS, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.clock import SystemClock
from gridwright.instances import Instances
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.process import Process
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_cas.config import (
    CasFile,
    Durability,
    FilesystemStoreSettings,
    MemoryStoreSettings,
    StoreSettings,
    VerifyStoreSettings,
)
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cas.stores.filesystem import FilesystemStore
from gridwright_cas.stores.verified import VerifiedStore


@asynccontextmanager
async def open_app(settings: CasFile, process: Process) -> AsyncIterator[None]:
    """Serve the CAS while the block runs.

    Raises:
        ConfigurationError: a store cannot be opened, or an address is in use.
    """
    cas = settings.cas
    instances = Instances(settings.instances)
    options = ServerOptions(
        listen=[cas.listen],
        authenticator=LoopbackAuthenticator(trust_network=settings.auth.trust_network),
        registry=process.registry,
        drain_seconds=cas.drain_seconds,
    )
    async with AsyncExitStack() as stack:
        domains = sorted({instance.storage for instance in instances})
        stores = {domain: await _open_store(cas.store, domain, stack) for domain in domains}
        servicers: list[Servicer] = [
            CasServicer(instances, stores),
            ByteStreamServicer(instances, stores),
            CapabilitiesServicer(instances),
        ]

        async def status() -> Mapping[str, object]:
            return {"stores": {domain: repr(store) for domain, store in stores.items()}}

        await stack.enter_async_context(serving(servicers, options))
        await stack.enter_async_context(process.admin("cas", cas.admin, status))
        yield


async def _open_store(settings: StoreSettings, domain: str, stack: AsyncExitStack) -> BlobStore:
    """Open the store of one storage domain; it is closed with *stack*."""
    match settings.variant:
        case MemoryStoreSettings() as memory:
            return MemoryStore(max_bytes=memory.eviction_policy.max_bytes)
        case FilesystemStoreSettings() as files:
            opening = FilesystemStore.opened(
                _domain_path(files.content_path, domain),
                SystemClock(),
                max_bytes=files.eviction_policy.max_bytes,
                durable=files.durability is Durability.FULL,
            )
            return await stack.enter_async_context(opening)
        case VerifyStoreSettings() as verify:
            return VerifiedStore(await _open_store(verify.backend, domain, stack))


def _domain_path(content_path: Path, domain: str) -> Path:
    """Return the directory of a storage domain, whose name may hold slashes, be "..", or empty."""
    return content_path / (quote(domain, safe="").replace(".", "%2E") or "%")
