"""What an operator says about results in Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RedisOptions:
    """How results are kept in Redis, and how long is waited for it."""

    #: What all keys begin with.
    prefix: str = "gridwright"
    #: What was not used for so long goes; 0: only when Redis needs the room.
    expire_seconds: float = 0.0
    #: Whether a lookup finds nothing while Redis does not answer, and nobody hears of writes that it did not take.
    misses_in_trouble: bool = False
    #: By when callers are answered.
    answer_seconds: float = 0.2
    #: How long a write that Redis did not take is tried again.
    write_retry_seconds: float = 10.0
