"""Changes as commands of Redis."""

from __future__ import annotations

from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterPipeline

from gridwright_actioncache.results.redis_database import Forget, Keep, Prolong, RedisChange

#: How many keys Redis looks at before it answers a question for all of them.
KEYS_PER_PAGE = 1_000


def queue(pipeline: Pipeline | ClusterPipeline, change: RedisChange) -> None:
    """Let *pipeline* make *change*, with what it makes already."""
    match change:
        case Keep(key, value, expire_ms):
            pipeline.set(key, value, px=expire_ms or None)
        case Forget(key):
            pipeline.delete(key)
        case Prolong(key, expire_ms):
            pipeline.pexpire(key, expire_ms)
