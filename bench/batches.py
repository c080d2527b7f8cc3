"""The bulk RPCs of the CAS as bytes: requests made before the clock starts, answers checked after it stopped."""

from __future__ import annotations

import os
import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.documents import digest_of
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc

BLOBS_PER_BATCH = 1000
BLOB_BYTES = 1024


class Batches(Protocol):
    """What one client process sends. It is made there, from a seed, since it is too much to hand over."""

    @property
    @abstractmethod
    def path(self) -> str:
        """Return the path of the RPC."""

    @abstractmethod
    def requests(self) -> Sequence[bytes]:
        """Return the messages to send."""

    @abstractmethod
    def check(self, answer: bytes) -> None:
        """Raise RuntimeError if *answer* is not what every one of the requests should have."""


@dataclass(frozen=True, slots=True)
class Updates(Batches):
    """BatchUpdateBlobs: batches of small incompressible blobs, the same for the same seed."""

    instance: str
    seed: int
    batches: int

    @property
    def path(self) -> str:
        return rpc.BATCH_UPDATE_BLOBS.path

    def requests(self) -> Sequence[bytes]:
        return [
            pb.BatchUpdateBlobsRequest(
                instance_name=self.instance,
                requests=[pb.BatchUpdateBlobsRequest.Request(digest=digest_of(blob), data=blob) for blob in batch],
            ).SerializeToString()
            for batch in _blobs(self.seed, self.batches)
        ]

    def check(self, answer: bytes) -> None:
        responses = pb.BatchUpdateBlobsResponse.FromString(answer).responses
        if len(responses) != BLOBS_PER_BATCH or any(response.status.code for response in responses):
            raise RuntimeError("the CAS did not keep every blob of a batch")


@dataclass(frozen=True, slots=True)
class Reads(Batches):
    """BatchReadBlobs of what ``Updates`` with the same seed wrote."""

    instance: str
    seed: int
    batches: int

    @property
    def path(self) -> str:
        return rpc.BATCH_READ_BLOBS.path

    def requests(self) -> Sequence[bytes]:
        return [
            pb.BatchReadBlobsRequest(instance_name=self.instance, digests=map(digest_of, batch)).SerializeToString()
            for batch in _blobs(self.seed, self.batches)
        ]

    def check(self, answer: bytes) -> None:
        responses = pb.BatchReadBlobsResponse.FromString(answer).responses
        if len(responses) != BLOBS_PER_BATCH or any(digest_of(one.data) != one.digest for one in responses):
            raise RuntimeError("the CAS did not give every blob of a batch as it was written")


@dataclass(frozen=True, slots=True)
class Questions(Batches):
    """FindMissingBlobs: every second digest is one that ``Updates`` with the same seed wrote, the others nobody did."""

    instance: str
    seed: int
    batches: int

    @property
    def path(self) -> str:
        return rpc.FIND_MISSING_BLOBS.path

    def requests(self) -> Sequence[bytes]:
        questions = []
        for batch in _blobs(self.seed, self.batches):
            digests = [digest_of(blob) for blob in batch]
            for absent in digests[::2]:
                absent.hash = os.urandom(32).hex()
            question = pb.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=digests)
            questions.append(question.SerializeToString())
        return questions

    def check(self, answer: bytes) -> None:
        missing = pb.FindMissingBlobsResponse.FromString(answer).missing_blob_digests
        if len(missing) != BLOBS_PER_BATCH // 2:
            raise RuntimeError(f"the CAS found {len(missing)} of {BLOBS_PER_BATCH // 2} digests missing")


def _blobs(seed: int, batches: int) -> Sequence[Sequence[bytes]]:
    source = random.Random(seed)
    return [[source.randbytes(BLOB_BYTES) for _ in range(BLOBS_PER_BATCH)] for _ in range(batches)]
