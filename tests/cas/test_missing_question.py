"""FindMissingBlobs answers the same whether its question is read as bytes or message by message."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import Call
from gridwright.wire.varint import varint
from gridwright_cas.servicers import cas
from gridwright_cas.servicers.cas import CasServicer

FUNCTIONS = list(DigestFunction)
NAME = "\x12E\n@" + "a" * 64
KEPT = [function.digest(b"%d" % number) for function in FUNCTIONS for number in range(3)]
UNKNOWN = varint(99 << 3) + b"\1"
HIDDEN = bytes([2 << 3 | 2]) + varint(68) + b"\n@" + b"b" * 64 + b"\x10\1"

good = st.sampled_from(KEPT + [Digest(function, "c" * function.hash_length, 2**40) for function in FUNCTIONS])
hashes = st.one_of(st.text("0123456789abcdefABg ä", max_size=66), st.sampled_from(["a" * 64, "A" * 64, "a" * 40]))
sizes = st.one_of(st.sampled_from([0, 1, -1, 300, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Return a digest's field as a client may write it, which need not be as protobuf does."""
    if draw(st.integers(0, 9)):
        function = draw(st.shared(st.sampled_from(FUNCTIONS), key="function"))
        one = draw(good.filter(lambda digest: digest.function is function))
        digest = pb.Digest(hash=one.hash, size_bytes=one.size_bytes)
    else:
        digest = pb.Digest(hash=draw(hashes), size_bytes=draw(sizes))
    parts = [digest.SerializeToString(), draw(st.sampled_from([b""] * 20 + [UNKNOWN, HIDDEN, b"\x10\x80\0"]))]
    encoded = b"".join(draw(st.permutations(parts)))
    return b"\x12" + varint(len(encoded)) + encoded


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    named = draw(st.one_of(st.just(0), st.shared(st.sampled_from(FUNCTIONS), key="function"), st.integers(0, 99)))
    around = pb.FindMissingBlobsRequest(instance_name=draw(st.sampled_from(["main", NAME, ""])))
    around.digest_function = int(named)  # type: ignore[assignment]
    parts = [around.SerializeToString(), draw(st.sampled_from([b""] * 9 + [UNKNOWN])), *draw(st.lists(messages()))]
    return b"".join(draw(st.permutations(parts)))


async def answer(servicer: CasServicer, encoded: bytes) -> pb.FindMissingBlobsResponse | tuple[str, str | None]:
    try:
        return await servicer.find_missing_blobs(pb.FindMissingBlobsRequest.FromString(encoded), Call())
    except InvalidDigest as error:
        return str(error), error.field


@given(requests())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
async def test_both_ways_give_the_same_answers_and_the_same_errors(
    monkeypatch: pytest.MonkeyPatch, encoded: bytes
) -> None:
    names = [{"name": name, "digest_functions": [one.name.lower() for one in FUNCTIONS]} for name in ("main", NAME)]
    instances = Instances([InstanceSettings.model_validate(one) for one in names])
    store = MemoryStore()
    await store.put_many(dict.fromkeys(KEPT, b"kept"))
    servicer = CasServicer(instances, {instance.storage: store for instance in instances})
    as_bytes = await answer(servicer, encoded)
    with monkeypatch.context() as patched:
        patched.setattr(cas, "read_question", lambda request, instance: None)
        assert as_bytes == await answer(servicer, encoded)
