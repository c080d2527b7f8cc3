"""The table of routes: which service of ours answers which RPC service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Backend(StrEnum):
    """The services behind the gateway; the values are the keys of ``endpoints`` in the settings."""

    CAS = "cas"
    ACTIONCACHE = "actioncache"
    SCHEDULER = "scheduler"


class Retry(StrEnum):
    """When the gateway sends a call again. Only for questions: asked twice, they answer the same."""

    NEVER = "never"
    #: When it was not answered at all.
    UNANSWERED = "unanswered"
    #: Also when the answer is UNAVAILABLE.
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Route:
    """Calls that go one way."""

    #: ``/service/Method``, or ``/service/`` for all methods of a service.
    path: str
    backend: Backend
    #: Whether a healthy call may be silent for a long time: a long poll, or a stream whose other side is slow.
    held: bool = False
    retry: Retry = Retry.NEVER

    @property
    def is_whole_service(self) -> bool:
        return self.path.endswith("/")


_REAPI = "/build.bazel.remote.execution.v2"

#: The first that matches decides, so single methods stand before their service.
ROUTES: tuple[Route, ...] = (
    Route(f"{_REAPI}.Capabilities/GetCapabilities", Backend.CAS, retry=Retry.UNAVAILABLE),
    Route(f"{_REAPI}.Capabilities/", Backend.CAS),
    Route(f"{_REAPI}.ContentAddressableStorage/FindMissingBlobs", Backend.CAS, retry=Retry.UNAVAILABLE),
    Route(f"{_REAPI}.ContentAddressableStorage/BatchReadBlobs", Backend.CAS, retry=Retry.UNAVAILABLE),
    Route(f"{_REAPI}.ContentAddressableStorage/", Backend.CAS),
    Route("/google.bytestream.ByteStream/", Backend.CAS, held=True),
    Route("/build.bazel.remote.logstream.v1.LogStreamService/", Backend.CAS, held=True),
    Route("/build.bazel.remote.asset.v1.Fetch/", Backend.CAS, held=True),
    Route("/build.bazel.remote.asset.v1.Push/", Backend.CAS),
    # Says UNAVAILABLE only after trying for as long as it may; asked five times more, it would hold a build up.
    Route(f"{_REAPI}.ActionCache/GetActionResult", Backend.ACTIONCACHE, retry=Retry.UNANSWERED),
    Route(f"{_REAPI}.ActionCache/", Backend.ACTIONCACHE),
    Route("/gridwright.actioncache.v1.ActionCacheOperator/", Backend.ACTIONCACHE, held=True),
    Route(f"{_REAPI}.Execution/", Backend.SCHEDULER, held=True),
    Route("/google.longrunning.Operations/", Backend.SCHEDULER, held=True),
    Route("/google.devtools.remoteworkers.v1test2.Bots/", Backend.SCHEDULER, held=True),
    # Of no single service. The CAS is what every client needs, so its word stands for the grid's.
    Route("/grpc.health.v1.Health/", Backend.CAS, held=True),
    Route("/grpc.reflection.v1alpha.ServerReflection/", Backend.CAS, held=True),
)
