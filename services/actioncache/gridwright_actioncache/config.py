"""What an operator can say about the action cache."""

from __future__ import annotations

from collections.abc import Sequence

from gridwright.settings import Address, GridSettings, ServerSettings
from gridwright.store_settings.leaves import LmdbStoreSettings
from gridwright.store_settings.named_stores import Root, Use
from gridwright.store_settings.store import CompletenessCheckingStoreSettings, StoreSettings


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
