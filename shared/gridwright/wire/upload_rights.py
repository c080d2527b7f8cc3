"""Who may upload what, asked before a byte of it is looked at."""

from __future__ import annotations

from gridwright.auth.identity import Role
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest, PermissionDenied
from gridwright.instances import Instance
from gridwright.wire.call import Call


def require_upload_right(call: Call, instance: Instance) -> None:
    """Refuse a caller that may not upload to *instance*, and everybody if it is read-only (checklist BSW-23).

    Raises:
        PermissionDenied: naming the role that is lacking, or the instance.
    """
    call.identity.require(Role.CAS_WRITER)
    if instance.read_only:
        raise PermissionDenied(f"instance {instance.name!r} is read-only; upload to another one")


def refuse_too_large(digest: Digest, instance: Instance) -> None:
    """Refuse a blob beyond the limit of *instance* (checklist CAP-19, BSW-18).

    Raises:
        InvalidRequest: it is.
    """
    if digest.size_bytes > instance.max_blob_bytes > 0:
        raise InvalidRequest(
            f"blob {digest} is larger than the {instance.max_blob_bytes} bytes that instance {instance.name!r} takes",
            field="digest",
        )
