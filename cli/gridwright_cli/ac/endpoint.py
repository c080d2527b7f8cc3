"""The action cache of an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperatorClient
from gridwright.wire.digests import digest_message
from gridwright.wire.rpc import Metadata
from gridwright_cli.ac.place import ActionCachePlace
from gridwright_cli.cas.digests import slices
from gridwright_cli.cas.endpoint import connected
from gridwright_cli.cas.place import Endpoint
from gridwright_cli.cas.progress import Report, Show
from gridwright_cli.remote import target_of

_CALL_SECONDS = 60.0
#: Each page of results is heard of; a purge of everything may take long, and says so meanwhile.
_PURGE_SECONDS = 3600.0
_REMOVED_AT_ONCE = 1_000


class EndpointPlace(ActionCachePlace):
    """Speaks to the service, which can also ask the CAS."""

    sees_outputs = True

    def __init__(self, remote: str, instance: str) -> None:
        self._endpoint = Endpoint(remote, target_of(remote), instance)

    def explain(self, digest: Digest) -> pb.ExplainResponse:
        return asyncio.run(self._explain(digest))

    def remove(self, digests: Iterable[Digest]) -> int:
        return asyncio.run(self._remove(digests))

    def purge(self, what: pb.PurgeRequest, show: Show) -> pb.PurgeResponse:
        return asyncio.run(self._purge(what, show))

    async def _explain(self, digest: Digest) -> pb.ExplainResponse:
        request = pb.ExplainRequest(
            instance_name=self._endpoint.instance,
            action_digest=digest_message(digest),
            digest_function=int(digest.function),  # type: ignore[arg-type]  # the same numbers
        )
        async with self._client() as (client, metadata):
            return await client.explain(request, timeout=_CALL_SECONDS, metadata=metadata)

    async def _remove(self, digests: Iterable[Digest]) -> int:
        by_function: dict[DigestFunction, list[Digest]] = {}
        for digest in digests:
            by_function.setdefault(digest.function, []).append(digest)
        async with self._client() as (client, metadata):
            for function, group in by_function.items():
                for some in slices(group, _REMOVED_AT_ONCE):
                    request = pb.RemoveRequest(
                        instance_name=self._endpoint.instance,
                        action_digests=map(digest_message, some),
                        digest_function=int(function),  # type: ignore[arg-type]
                    )
                    await client.remove(request, timeout=_CALL_SECONDS, metadata=metadata)
        return sum(map(len, by_function.values()))

    async def _purge(self, what: pb.PurgeRequest, show: Show) -> pb.PurgeResponse:
        request = pb.PurgeRequest()
        request.CopyFrom(what)
        request.instance_name = self._endpoint.instance
        last = pb.PurgeResponse()
        async with self._client() as (client, metadata):
            async for response in client.purge(request, timeout=_PURGE_SECONDS, metadata=metadata):
                show(Report("examining", response.examined, None, "results"))
                last = response
        return last

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[tuple[ActionCacheOperatorClient, Metadata]]:
        async with connected(self._endpoint) as connection:
            yield ActionCacheOperatorClient(connection.channel), connection.metadata
