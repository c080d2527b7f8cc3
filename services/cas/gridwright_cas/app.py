"""The CAS, put together."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.blobs.store import BlobStore
from gridwright.clock import SystemClock
from gridwright.instances import Instances
from gridwright.store_settings.named_stores import NamedStores
from gridwright.telemetry.admin import StatusReport
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.process import Process
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_cas.composition import Composition, StorageDomain
from gridwright_cas.config import CasFile
from gridwright_cas.processes.group import open_group
from gridwright_cas.processes.report import answering
from gridwright_cas.segment_watch import watching
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cas.servicers.reads import Reads
from gridwright_cas.servicers.uploads import UploadBounds, Uploads
from gridwright_cas.store_metrics import StoreMetrics
from gridwright_cas.stores.spool import Spool


@asynccontextmanager
async def open_app(settings: CasFile, process: Process) -> AsyncIterator[None]:
    """Serve the CAS while the block runs, from this process or from several that it starts.

    Raises:
        ConfigurationError: a store cannot be opened, or an address is in use.
    """
    if settings.cas.processes > 1:
        async with open_group(settings, process):
            yield
    else:
        async with _served(settings, process) as status, process.admin("cas", settings.cas.admin, status):
            yield


@asynccontextmanager
async def open_child(settings: CasFile, process: Process, parent: socket.socket) -> AsyncIterator[None]:
    """Serve the CAS while the block runs, as one of several processes that *parent* asks how they are.

    Raises:
        ConfigurationError: as ``open_app``.
    """
    async with _served(settings, process, share_port=True) as status, answering(parent, process, status):
        yield


@asynccontextmanager
async def _served(settings: CasFile, process: Process, *, share_port: bool = False) -> AsyncIterator[StatusReport]:
    """Answer RPCs while the block runs; yield what tells of the stores."""
    cas = settings.cas
    instances = Instances(settings.instances)
    options = ServerOptions(
        listen=[cas.listen],
        authenticator=LoopbackAuthenticator(
            trust_network=settings.auth.trust_network, local_operators=settings.auth.local_operators
        ),
        registry=process.registry,
        drain_seconds=cas.drain_seconds,
        share_port=share_port,
    )
    async with AsyncExitStack() as stack:
        composition = Composition(NamedStores(settings.stores), StoreMetrics(process.registry), stack)
        stores: dict[str, BlobStore] = {}
        for instance in instances:
            if instance.storage not in stores:
                domain = StorageDomain(instance.storage, instance.name)
                stores[instance.storage] = await composition.open(cas.store, domain)
        await stack.enter_async_context(watching(composition.engines, process))
        bounds = UploadBounds(memory_bytes=cas.uploads.memory, max_count=cas.uploads.max_count)
        spool = Spool(cas.uploads.spool_path, SystemClock(), max_bytes=cas.uploads.spool_max_bytes)
        uploads = await stack.enter_async_context(Uploads.opened(stores, bounds, spool))
        servicers: list[Servicer] = [
            CasServicer(instances, stores),
            ByteStreamServicer(instances, stores, uploads, Reads(cas.reads.memory)),
            CapabilitiesServicer(instances),
        ]

        async def status() -> Mapping[str, object]:
            return {"stores": {domain: repr(store) for domain, store in stores.items()}}

        await stack.enter_async_context(serving(servicers, options))
        yield status
