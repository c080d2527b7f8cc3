"""Who is calling, and the roles that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gridwright.errors import PermissionDenied


class Role(StrEnum):
    """What a caller may be allowed to do."""

    READER = "reader"
    """Read the CAS and the action cache, ask for capabilities."""
    CAS_WRITER = "cas_writer"
    """Also upload blobs."""
    WRITER = "writer"
    """Also write the action cache."""
    EXECUTOR = "executor"
    """Also execute actions, and watch and cancel operations."""
    SCHEDULER = "scheduler"
    """Write the action cache also where no client may: what the grid has run itself."""
    WORKER = "worker"
    """Take leases from the Bots service."""
    ADMIN = "admin"
    """Operate the grid: drain, purge, cancel what belongs to others."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller, as far as it is known, with the roles that were granted to it."""

    subject: str
    roles: frozenset[Role]

    def require(self, role: Role) -> None:
        """Raise PermissionDenied, naming *role*, unless it was granted."""
        if role not in self.roles:
            raise PermissionDenied(f"{self.subject} lacks the role {role.value!r} that this call needs")


#: Nobody in particular, with every role that a client can have except admin: what a caller on loopback is without
#: authentication.
ANONYMOUS = Identity("anonymous", frozenset(Role) - {Role.ADMIN, Role.SCHEDULER})
#: The same where the settings let local callers operate the grid, too.
LOCAL_OPERATOR = Identity("anonymous", ANONYMOUS.roles | {Role.ADMIN})
#: The grid's scheduler, which calls the other services by themselves, not through the gateway.
SCHEDULER = Identity("scheduler", frozenset({Role.READER, Role.CAS_WRITER, Role.SCHEDULER}))
#: Nobody in particular, with no role: what a caller from elsewhere is without authentication.
NOBODY = Identity("anonymous", frozenset())
