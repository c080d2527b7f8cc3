"""What Redis and its client say went wrong, in words of our family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)

from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable

#: What :class:`redis_errors` translates. The client's own errors of clusters are of no family with its others.
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
_MAX_CHARACTERS = 300


def redis_error(error: Exception) -> GridwrightError:
    """Return *error* in our words, with what to do about it."""
    text = str(error)[:_MAX_CHARACTERS] or type(error).__name__
    match error:
        case OutOfMemoryError():
            return ResourceExhausted(
                "Redis has no room for more results: give it more maxmemory, or a maxmemory-policy that evicts "
                "(allkeys-lru)"
            )
        case ReadOnlyError():
            return Unavailable(f"the Redis at this address takes no writes, as a replica does: {text}")
        case AuthenticationError() | AuthorizationError() | NoPermissionError():
            return Unavailable(f"Redis refuses us; look at username, password_file and its ACL: {text}")
        case _:
            return Unavailable(f"Redis does not answer: {text}")


@contextmanager
def redis_errors() -> Iterator[None]:
    """Translate what is raised in the block."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise redis_error(error) from error
