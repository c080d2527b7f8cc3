"""What an operator can say about the CAS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field, PositiveInt

from gridwright.quantities import ByteSize
from gridwright.sections import Section
from gridwright.settings import Address, GridSettings, ServerSettings
from gridwright.store_settings.leaves import SegmentsStoreSettings
from gridwright.store_settings.named_stores import Fault, NamedStores, Root, Use
from gridwright.store_settings.store import StoreSettings, VerifyStoreSettings
from gridwright_cas.processes.sharable import faults_of_sharing


class UploadSettings(Section):
    """Uploads by ByteStream, while they are under way and after they broke off."""

    memory: ByteSize = 16_000_000
    """What all of them together may have in memory before it is on a disk; each of several processes has its share."""

    max_count: PositiveInt = 2_000
    """How many may be under way in one process; more are refused with RESOURCE_EXHAUSTED, to be tried again."""

    spool_path: Path = Path(".gridwright/uploads")
    """Where copies of unfinished uploads are kept for stores other than `segments`, which keep their own. Processes
    that serve the same stores should share it."""

    spool_max_bytes: ByteSize = 10_000_000_000
    """What these copies may take together; the oldest go first, and all after an hour."""


class ReadSettings(Section):
    """Reads by ByteStream, while they are under way."""

    memory: ByteSize = 800_000_000
    """What the blocks that all of them together are sending may take in memory, a MiB for each read of a large blob;
    more wait, and after five seconds are refused with RESOURCE_EXHAUSTED, to be tried again. Each of several processes
    has its share."""


class CasSettings(ServerSettings):
    """The CAS service."""

    listen: Address = Address("127.0.0.1:50071")
    """Where gRPC is served."""

    processes: int = Field(default=1, ge=1, le=32)
    """How many processes serve, on the same TCP port and the same directories, which must be of `segments`. One of
    Python uses about one core; the kernel gives each connection to one of them."""

    admin: Address = Address("127.0.0.1:9071")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    store: StoreSettings = StoreSettings(
        verify=VerifyStoreSettings(
            backend=StoreSettings(segments=SegmentsStoreSettings(content_path=Path(".gridwright/cas")))
        )
    )
    """Where blobs are kept."""

    uploads: UploadSettings = UploadSettings()
    """Uploads by ByteStream, while they are under way and after they broke off."""

    reads: ReadSettings = ReadSettings()
    """Reads by ByteStream, while they are under way."""


class CasFile(GridSettings):
    """The settings file, as the CAS reads it."""

    cas: CasSettings = CasSettings()
    """The CAS service."""

    @property
    def store_roots(self) -> Sequence[Root]:
        return (Root("cas.store", self.cas.store, Use.BLOBS),)

    def own_faults(self) -> Iterator[Fault]:
        if self.cas.processes > 1:
            for root in self.store_roots:
                yield from faults_of_sharing(self.cas.listen, NamedStores(self.stores), root)
