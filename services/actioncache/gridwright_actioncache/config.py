"""What an operator can say about the action cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gridwright.auth.result_writers import ResultWriters
from gridwright.settings import Address, GridSettings, ServerSettings
from gridwright.store_settings.leaves import LmdbStoreSettings
from gridwright.store_settings.named_stores import Fault, NamedStores, Root, Use
from gridwright.store_settings.store import (
    CompletenessCheckingStoreSettings,
    ExpiringStoreSettings,
    FastSlowStoreSettings,
    MeteredStoreSettings,
    ReadOnlyStoreSettings,
    StoreSettings,
    WriteOnceStoreSettings,
)


class ActionCacheSettings(ServerSettings):
    """The action cache."""

    listen: Address = Address("127.0.0.1:50072")
    """Where gRPC is served."""

    admin: Address = Address("127.0.0.1:9072")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    store: StoreSettings = StoreSettings(
        completeness_checking=CompletenessCheckingStoreSettings(backend=StoreSettings(lmdb=LmdbStoreSettings()))
    )
    """Where results are kept."""


class ActionCacheFile(GridSettings):
    """The settings file, as the action cache reads it."""

    actioncache: ActionCacheSettings = ActionCacheSettings()
    """The action cache."""

    @property
    def store_roots(self) -> Sequence[Root]:
        return (Root("actioncache.store", self.actioncache.store, Use.RESULTS),)

    def own_faults(self) -> Iterator[Fault]:
        """Yield what would make GetCapabilities say what is not so: it goes by instances alone (checklist CAP-13)."""
        if not _takes_no_results(self.actioncache.store, NamedStores(self.stores)):
            return
        for instance in self.instances:
            if instance.result_writers is not ResultWriters.SCHEDULER and not instance.read_only:
                yield Fault(
                    f"instances.{instance.name}.result_writers",
                    "actioncache.store is read_only, and clients would be told that they may write results; write "
                    "scheduler",
                )


def _takes_no_results(store: StoreSettings, stores: NamedStores) -> bool:
    """Return whether *store* refuses whatever it is given."""
    match stores.target(store).variant:
        case ReadOnlyStoreSettings():
            return True
        case FastSlowStoreSettings(slow=slow, slow_direction=direction) if direction.takes_puts:
            return _takes_no_results(slow, stores)
        case FastSlowStoreSettings(fast=fast):
            return _takes_no_results(fast, stores)
        case (
            CompletenessCheckingStoreSettings(backend=inner)
            | ExpiringStoreSettings(backend=inner)
            | MeteredStoreSettings(backend=inner)
            | WriteOnceStoreSettings(backend=inner)
        ):
            return _takes_no_results(inner, stores)
        case _:
            return False
