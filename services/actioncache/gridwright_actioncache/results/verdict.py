"""What becomes of a question for a result, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gridwright.digest import Digest


class Outcome(StrEnum):
    """How a look-up ends; all but a hit are misses to the client."""

    HIT = "hit"
    #: Nothing is stored.
    ABSENT = "absent"
    #: It names blobs that the CAS lacks.
    INCOMPLETE = "incomplete"
    #: The stored bytes are no result, or name a directory that is none.
    MALFORMED = "malformed"
    #: It is too old.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one look-up, and what led to it."""

    outcome: Outcome
    #: What is stored, also where it is not returned.
    document: bytes | None = None
    #: The blobs that the CAS lacks; where a directory itself is missing, what was inside is not known.
    missing: frozenset[Digest] = frozenset()
