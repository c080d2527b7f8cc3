"""The one family of errors that Gridwright's services raise.

::

    GridwrightError
    ├── InvalidRequest              the caller sent something that can never succeed
    │   ├── UnknownInstance         no such instance here
    │   ├── InvalidDigest           not a digest of the announced functions
    │   ├── InvalidResourceName     not a ByteStream resource name
    │   └── DigestMismatch          the caller's bytes are not those that its digest names
    ├── NotFound                    what was named is not here
    │   ├── BlobNotFound
    │   ├── ActionResultNotFound
    │   └── OperationNotFound
    ├── OutOfRange                  an offset beyond the end
    ├── FailedPrecondition          the state of the system must change first
    │   └── MissingBlobs            blobs that the request needs must be uploaded first
    ├── Unauthenticated             who are you?
    ├── PermissionDenied            the caller lacks a role; it is named
    ├── ResourceExhausted           a limit was reached; retry later where retry_after says so
    ├── Unavailable                 this or another service cannot answer now; retry
    ├── DeadlineExceeded            it took longer than the caller, or a limit, allowed
    ├── Aborted                     lost a race; retry from the start
    ├── Unimplemented               not offered here
    ├── Cancelled                   the caller, or an operator, gave it up
    ├── BlobCorrupted               our own copy has rotted: never the caller's fault
    └── InternalError               a fault of ours, or an answer that makes no sense

    ConfigurationError              not of the family: it ends the start, no caller sees it

``wire.statuses`` says which gRPC status each becomes. Nothing here knows gRPC.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gridwright.digest import Digest


class GridwrightError(Exception):
    """Something a caller must hear about; the text says what, and what to do."""


class InvalidRequest(GridwrightError):
    """The request can never succeed as it is.

    *field* names what is wrong in the request, in proto field notation, where one thing is.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownInstance(InvalidRequest):
    """No instance of this name is served here; never NOT_FOUND, which reads as a cache miss (INS-04)."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"unknown instance name {name!r}; this endpoint serves {', '.join(map(repr, known))}",
            field="instance_name",
        )


class InvalidDigest(InvalidRequest):
    """Not a digest, or one of a function that the instance does not use."""


class InvalidResourceName(InvalidRequest):
    """Not a ByteStream resource name (checklist BSN)."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"resource name {name[:200]!r}: {why}", field="resource_name")


class DigestMismatch(InvalidRequest):
    """The bytes that the caller sent are not those that its digest names."""


class NotFound(GridwrightError):
    """What was named is not here."""


class BlobNotFound(NotFound):
    """The store does not hold the blob."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"blob {digest} not found")
        self.digest = digest


class ActionResultNotFound(NotFound):
    """The action cache holds no result, or none whose outputs are all still there."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"no cached result for action {digest}")
        self.digest = digest


class OperationNotFound(NotFound):
    """No operation of this name, or one that finished too long ago."""

    def __init__(self, name: str) -> None:
        super().__init__(f"operation {name[:200]!r} not found; finished operations are forgotten after a while")


class OutOfRange(GridwrightError):
    """An offset lies beyond the end of the blob."""


class FailedPrecondition(GridwrightError):
    """The request may succeed once something else has changed."""


class MissingBlobs(FailedPrecondition):
    """Blobs that the request needs are not in the CAS; upload them and try again (checklist appendix A)."""

    def __init__(self, digests: Collection[Digest], what: str = "inputs") -> None:
        self.digests = tuple(sorted(set(digests)))
        some = ", ".join(str(digest) for digest in self.digests[:3])
        more = f" and {len(self.digests) - 3} more" if len(self.digests) > 3 else ""
        super().__init__(f"{len(self.digests)} {what} missing from the CAS: {some}{more}")


class Unauthenticated(GridwrightError):
    """The caller did not prove who it is."""


class PermissionDenied(GridwrightError):
    """The caller is known and may not do this; the text names the role that it lacks."""


class _Retriable(GridwrightError):
    """An error that may carry how long to wait before the next try."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ResourceExhausted(_Retriable):
    """A limit was reached: store full, queue full, message too large."""


class Unavailable(_Retriable):
    """This service, or one that it needs, cannot answer now."""


class DeadlineExceeded(GridwrightError):
    """It took longer than the caller, or one of our own limits, allowed."""


class Aborted(GridwrightError):
    """Another call was quicker; start again."""


class Unimplemented(GridwrightError):
    """Not offered here."""


class Cancelled(GridwrightError):
    """The caller or an operator gave it up."""


class BlobCorrupted(GridwrightError):
    """Our own copy of a blob no longer has the bytes that its digest names."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"the stored copy of blob {digest} is corrupt")
        self.digest = digest


class InternalError(GridwrightError):
    """A fault of ours, or an answer of another service that makes no sense."""


class ConfigurationError(Exception):
    """The settings make no sense; the text names the key and what to write instead."""
