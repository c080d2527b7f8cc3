"""A Redis of several servers, each of which holds a part of the keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.exceptions import RedisClusterException

from gridwright.errors import GridwrightError, Unavailable
from gridwright_actioncache.results.redis_database import RedisChange, RedisDatabase
from gridwright_actioncache.results.redis_errors import redis_error, redis_errors
from gridwright_actioncache.results.redis_wire import KEYS_PER_PAGE, queue


class ClusterRedis(RedisDatabase):
    """Talks to each server of a cluster about its own keys, and follows keys that move.

    Args:
        client: finds the servers when it is used, and makes no second attempt of its own.
        name: where those are that know the others, for messages.
    """

    def __init__(self, client: RedisCluster, *, name: str) -> None:
        self._client = client
        self._name = name

    def __repr__(self) -> str:
        return f"<ClusterRedis {self._name}>"

    def server_of(self, key: bytes) -> str:
        try:
            node = self._client.get_node_from_key(key)  # type: ignore[arg-type]  # takes what can be encoded
        except RedisClusterException:
            # Not asked yet, or nobody has it.
            return self._name
        return node.name if node is not None else self._name

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | GridwrightError | None]:
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.get(key)
        answers = await self._execute(pipeline)
        return [redis_error(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def change(self, changes: Sequence[RedisChange]) -> Sequence[GridwrightError | None]:
        pipeline = self._client.pipeline()
        for change in changes:
            queue(pipeline, change)
        answers = await self._execute(pipeline)
        return [redis_error(answer) if isinstance(answer, Exception) else None for answer in answers]

    async def revive(self, server: str) -> None:
        with _cluster_errors():
            await self._client.initialize()
            await self._client.nodes_manager.initialize(last_failed_node_name=server)
            node = self._client.get_node(node_name=server)
            # A server that lost its part, or never was one, is in nobody's way: its keys have another.
            if node is not None and node in self._client.get_primaries():
                await node.execute_command("PING")

    async def keys(self, prefix: str) -> AsyncIterator[Sequence[bytes]]:
        with _cluster_errors():
            await self._client.initialize()
        for node in self._client.get_primaries():
            cursor = 0
            while True:
                with _cluster_errors():
                    answer = await node.execute_command("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", KEYS_PER_PAGE)
                cursor, page = int(answer[0]), answer[1]
                if page:
                    yield page
                if cursor == 0:
                    break

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _execute(self, pipeline: ClusterPipeline) -> Sequence[bytes | Exception | None]:
        """Return the answers, with errors among them, unless there is nothing else."""
        with _cluster_errors():
            await self._client.initialize()
            answers: list[bytes | Exception | None] = await pipeline.execute(raise_on_error=False)
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if failures and len(failures) == len(answers):
            raise redis_error(failures[0])
        return answers


@contextmanager
def _cluster_errors() -> Iterator[None]:
    with redis_errors():
        try:
            yield
        except LookupError as error:
            # What its tables raise that are out of date while servers come and go.
            raise Unavailable(f"the servers of the Redis cluster are not known just now: {error!r}") from error
