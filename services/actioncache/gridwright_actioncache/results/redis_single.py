"""A Redis of one server, also one that sentinels name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from gridwright.errors import GridwrightError
from gridwright_actioncache.results.redis_database import Forget, RedisChange, RedisDatabase
from gridwright_actioncache.results.redis_errors import redis_error, redis_errors
from gridwright_actioncache.results.redis_wire import KEYS_PER_PAGE, queue

#: Which nobody has; asked for, it shows that the server reads what it holds, and not only that it is there.
_PROBE = "probe"


class SingleRedis(RedisDatabase):
    """Talks to one server.

    Args:
        client: connects when it is used, and makes no second attempt of its own.
        name: where the server is, for messages.
        key_prefix: what we may ask for.
    """

    def __init__(self, client: Redis, *, name: str, key_prefix: str) -> None:
        self._client = client
        self._name = name
        self._key_prefix = key_prefix

    def __repr__(self) -> str:
        return f"<SingleRedis {self._name}>"

    def server_of(self, key: bytes) -> str:
        return self._name

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | GridwrightError | None]:
        with redis_errors():
            return await self._client.mget(keys)  # type: ignore[return-value]  # bytes, as nothing is decoded

    async def change(self, changes: Sequence[RedisChange]) -> Sequence[GridwrightError | None]:
        # To revoke results means to forget very many, for which one command costs much less.
        forgotten = [change.key for change in changes if isinstance(change, Forget)]
        others = [change for change in changes if not isinstance(change, Forget)]
        with redis_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for change in others:
                    queue(pipeline, change)
                if forgotten:
                    pipeline.delete(*forgotten)
                answers = await pipeline.execute(raise_on_error=False)
            if any(isinstance(answer, ReadOnlyError) for answer in answers):
                # The name that we connected to may stand for another server by now, which takes writes.
                await self._client.connection_pool.disconnect(inuse_connections=False)
        outcomes = [redis_error(answer) if isinstance(answer, Exception) else None for answer in answers]
        of_others = iter(outcomes)
        return [outcomes[-1] if isinstance(change, Forget) else next(of_others) for change in changes]

    async def revive(self, server: str) -> None:
        with redis_errors():
            await self._client.get(f"{self._key_prefix}:{_PROBE}")

    async def keys(self, prefix: str) -> AsyncIterator[Sequence[bytes]]:
        cursor = 0
        while True:
            with redis_errors():
                answer = await self._client.scan(cursor, match=f"{prefix}*", count=KEYS_PER_PAGE)
            cursor = int(answer[0])
            if answer[1]:
                yield answer[1]  # type: ignore[misc]  # bytes, as nothing is decoded
            if cursor == 0:
                return

    async def aclose(self) -> None:
        await self._client.aclose()
