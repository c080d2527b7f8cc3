"""The action cache, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.clock import SystemClock
from gridwright.instances import Instances
from gridwright.store_settings.named_stores import NamedStores
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.process import Process
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_actioncache.composition import Composition
from gridwright_actioncache.config import ActionCacheFile
from gridwright_actioncache.lookups import Lookups
from gridwright_actioncache.metrics import ResultStoreMetrics
from gridwright_actioncache.servicers.actioncache import ActionCacheServicer
from gridwright_actioncache.servicers.batches import ActionCacheBatchesServicer
from gridwright_actioncache.servicers.operator import ActionCacheOperatorServicer


@asynccontextmanager
async def open_app(settings: ActionCacheFile, process: Process) -> AsyncIterator[None]:
    """Serve the action cache while the block runs.

    Raises:
        ConfigurationError: the store cannot be opened, or an address is in use.
    """
    actioncache = settings.actioncache
    instances = Instances(settings.instances)
    options = ServerOptions(
        listen=[actioncache.listen],
        authenticator=LoopbackAuthenticator(
            trust_network=settings.auth.trust_network, local_operators=settings.auth.local_operators
        ),
        registry=process.registry,
        drain_seconds=actioncache.drain_seconds,
    )
    async with AsyncExitStack() as stack:
        lookups = Lookups()
        metrics = ResultStoreMetrics(process.registry, lookups)
        stores = Composition(NamedStores(settings.stores), instances, settings.endpoints.cas, metrics, stack)
        results = await stores.open(actioncache.store)
        blobs = await stores.open_cas()

        async def status() -> Mapping[str, object]:
            return {"store": repr(results), "dependencies": metrics.dependencies()}

        single = ActionCacheServicer(instances, results, blobs, SystemClock(), lookups)
        servicers: list[Servicer] = [
            single,
            ActionCacheBatchesServicer(single),
            ActionCacheOperatorServicer(instances, results),
            CapabilitiesServicer(instances),
        ]
        await stack.enter_async_context(serving(servicers, options))
        await stack.enter_async_context(process.admin("actioncache", actioncache.admin, status))
        yield
