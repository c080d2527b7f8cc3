"""A connection to the CAS of an endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import BlobStore
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Channel, Metadata
from gridwright_cli.cas.place import Endpoint
from gridwright_cli.remote import ask_capabilities, request_metadata

#: A command's user is there to start it again: a service that restarts is waited for, one that is gone is not.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Connection:
    """What a command needs to speak to an endpoint."""

    channel: Channel
    metadata: Metadata
    capabilities: pb.ServerCapabilities
    store: BlobStore


@asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[Connection]:
    """Connect to *endpoint* while the block runs, and ask first what it can do.

    Raises:
        Unavailable: nobody answers there.
        GridwrightError: it refuses.
    """
    metadata = request_metadata(str(uuid4()))
    async with GrpcChannel(endpoint.target) as plain:
        capabilities = await ask_capabilities(plain, endpoint.address, endpoint.instance, metadata)
        channel = RetryingChannel(plain, patience_seconds=_PATIENCE_SECONDS)
        store = RemoteStore(channel, endpoint.instance, metadata=metadata)
        yield Connection(channel, metadata, capabilities, store)
