"""What an operator can say about the CAS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gridwright.settings import Address, GridSettings, ServerSettings
from gridwright.store_settings.leaves import SegmentsStoreSettings
from gridwright.store_settings.named_stores import Root, Use
from gridwright.store_settings.store import StoreSettings, VerifyStoreSettings


class CasSettings(ServerSettings):
    """The CAS service."""

    listen: Address = Address("127.0.0.1:50071")
    """Where gRPC is served."""

    admin: Address = Address("127.0.0.1:9071")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    store: StoreSettings = StoreSettings(
        verify=VerifyStoreSettings(
            backend=StoreSettings(segments=SegmentsStoreSettings(content_path=Path(".gridwright/cas")))
        )
    )
    """Where blobs are kept."""


class CasFile(GridSettings):
    """The settings file, as the CAS reads it."""

    cas: CasSettings = CasSettings()
    """The CAS service."""

    @property
    def store_roots(self) -> Sequence[Root]:
        return (Root("cas.store", self.cas.store, Use.BLOBS),)
