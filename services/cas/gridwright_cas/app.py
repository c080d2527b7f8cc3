"""The CAS, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.blobs.store import BlobStore
from gridwright.instances import Instances
from gridwright.store_settings.named_stores import NamedStores
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.process import Process
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_cas.composition import Composition, StorageDomain
from gridwright_cas.config import CasFile
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cas.store_metrics import StoreMetrics


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
        composition = Composition(NamedStores(settings.stores), StoreMetrics(process.registry), stack)
        stores: dict[str, BlobStore] = {}
        for instance in instances:
            if instance.storage not in stores:
                domain = StorageDomain(instance.storage, instance.name)
                stores[instance.storage] = await composition.open(cas.store, domain)
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
