"""The action cache as clients see it, over gRPC, with a CAS over gRPC behind it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.auth.identity import ANONYMOUS, Identity, Role
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, InvalidRequest, NotFound, PermissionDenied, Unavailable
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient, CapabilitiesClient
from gridwright.settings import Address, validate_settings
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.process import Process
from gridwright.wire.rpc import Channel
from gridwright.wire.server import ServerOptions, serving
from gridwright_actioncache.app import open_app
from gridwright_actioncache.config import ActionCacheFile
from gridwright_actioncache.servicers.actioncache import ActionCacheServicer
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action
from tests.actioncache.documents import a_blob, directory, message, tree
from tests.actioncache.result_stores import a_memory


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="gw-") as path:
        yield Path(path)


@pytest.fixture
async def cas(run: Path) -> AsyncIterator[FakeCas]:
    fake = FakeCas()
    async with serving_cas(fake, run):
        yield fake


@pytest.fixture
async def channel(run: Path, cas: FakeCas) -> AsyncIterator[Channel]:
    async with actioncache(run) as channel:
        yield channel


@pytest.fixture
def client(channel: Channel) -> ActionCacheClient:
    return ActionCacheClient(channel)


@asynccontextmanager
async def serving_cas(cas: FakeCas, run: Path) -> AsyncIterator[None]:
    listen = [Address.parse(f"unix:{run}/cas.sock")]
    async with serving(cas.servicers, ServerOptions(listen, LoopbackAuthenticator(), CollectorRegistry())):
        yield


@asynccontextmanager
async def actioncache(run: Path) -> AsyncIterator[Channel]:
    data = {
        "instances": [{"name": "main"}, {"name": "team/b", "digest_functions": ["sha256"]}],
        "endpoints": {"cas": f"unix:{run}/cas.sock"},
        "actioncache": {
            "listen": f"unix:{run}/actioncache.sock",
            "admin": f"unix:{run}/admin.sock",
            "store": {"completeness_checking": {"backend": {"lmdb": {"path": f"{run}/results", "max_bytes": "10MiB"}}}},
        },
    }
    settings = validate_settings(ActionCacheFile, data, source="the test")
    async with open_app(settings, Process()), GrpcChannel(f"unix:{run}/actioncache.sock") as channel:
        yield channel


async def get(
    client: ActionCacheClient, action: Digest, instance: str = "main", timeout: float = 20, function: int = 0
) -> pb.ActionResult:
    request = pb.GetActionResultRequest(instance_name=instance, action_digest=message(action))
    request.digest_function = function  # type: ignore[assignment]  # the same numbers
    return await client.get_action_result(request, timeout=timeout)


async def update(
    client: ActionCacheClient, action: Digest, result: pb.ActionResult, instance: str = "main"
) -> pb.ActionResult:
    request = pb.UpdateActionResultRequest(instance_name=instance, action_digest=message(action), action_result=result)
    return await client.update_action_result(request, timeout=20)


def result_of(*files: Digest, exit_code: int = 0) -> pb.ActionResult:
    result = pb.ActionResult(exit_code=exit_code)
    result.execution_metadata.worker = "worker-1"
    for index, digest in enumerate(files):
        result.output_files.add(path=f"out/{index}", digest=message(digest))
    return result


async def test_a_result_that_was_stored_is_found(client: ActionCacheClient, cas: FakeCas) -> None:
    """ACG-03, ACU-01."""
    action, result = an_action(), result_of(await cas.keep(b"output"))
    assert await update(client, action, result) == result
    assert await get(client, action) == result


async def test_an_action_that_nobody_ran_is_not_found(client: ActionCacheClient) -> None:
    """ACG-01."""
    with pytest.raises(NotFound, match="no cached result"):
        await get(client, an_action())


async def test_a_result_is_a_miss_while_an_output_is_gone(client: ActionCacheClient, cas: FakeCas) -> None:
    """ACG-04; ACU-10: an update is taken without its outputs."""
    action, lost = an_action(), a_blob()
    await update(client, action, result_of(await cas.keep(b"there"), lost))
    with pytest.raises(NotFound):
        await get(client, action)


async def test_a_result_is_a_miss_while_a_file_inside_a_tree_is_gone(client: ActionCacheClient, cas: FakeCas) -> None:
    """ACG-05."""
    file = await cas.keep(b"deep down")
    below = directory(files={"file": file})
    a_tree = await cas.keep(tree(directory(directories={"below": below}), below))
    action, result = an_action(), result_of()
    result.output_directories.add(path="dir", tree_digest=message(a_tree))
    await update(client, action, result)
    assert await get(client, action) == result
    cas.lost = {file}
    with pytest.raises(NotFound):
        await get(client, action)


async def test_a_tree_larger_than_a_message_is_checked(client: ActionCacheClient, cas: FakeCas) -> None:
    files = {f"{'long-name' * 10}-{k}": await cas.keep(f"{k}".encode()) for k in range(15_000)}
    a_tree = await cas.keep(tree(directory(files=files)))
    assert a_tree.size_bytes > 2 * 1024 * 1024
    action, result = an_action(), result_of()
    result.output_directories.add(path="dir", tree_digest=message(a_tree))
    await update(client, action, result)
    assert await get(client, action) == result
    cas.lost = {list(files.values())[-1]}
    with pytest.raises(NotFound):
        await get(client, action)


async def test_without_the_cas_a_result_is_neither_a_hit_nor_a_miss(run: Path) -> None:
    """ACG-02."""
    cas = FakeCas()
    async with AsyncExitStack() as cas_is_up, actioncache(run) as channel:
        client = ActionCacheClient(channel)
        await cas_is_up.enter_async_context(serving_cas(cas, run))
        action = an_action()
        await update(client, action, result_of(await cas.keep(b"output")))
        await get(client, action)
        await cas_is_up.aclose()
        with pytest.raises(Unavailable):
            await get(client, action)
        with pytest.raises(NotFound):
            await get(client, an_action())
        async with serving_cas(cas, run):
            assert (await get(client, action)).output_files


async def test_results_outlive_a_restart(run: Path, cas: FakeCas) -> None:
    action, result = an_action(), result_of(await cas.keep(b"output"))
    async with actioncache(run) as channel:
        await update(ActionCacheClient(channel), action, result)
    async with actioncache(run) as channel:
        assert await get(ActionCacheClient(channel), action) == result


async def test_fields_of_a_later_version_survive(client: ActionCacheClient, cas: FakeCas) -> None:
    """ACU-12."""
    action = an_action()
    later = result_of().SerializeToString() + b"\xfa\x3e\x05later"
    await update(client, action, pb.ActionResult.FromString(later))
    assert b"\xfa\x3e\x05later" in (await get(client, action)).SerializeToString()


async def test_a_result_without_metadata_comes_back_with_some(client: ActionCacheClient) -> None:
    """ACG-12, ACG-13, ACU-01."""
    action = an_action()
    for answer in (await update(client, action, pb.ActionResult()), await get(client, action)):
        assert answer.HasField("execution_metadata")
        assert answer.SerializeToString()


async def test_the_last_update_wins(client: ActionCacheClient) -> None:
    """ACU-08, ACU-09."""
    action = an_action()
    for code in (1, 2, 3):
        await update(client, action, result_of(exit_code=code))
    assert (await get(client, action)).exit_code == 3


async def test_results_of_instances_are_apart(client: ActionCacheClient) -> None:
    action = an_action()
    await update(client, action, result_of(exit_code=1))
    await update(client, action, result_of(exit_code=2), "team/b")
    assert (await get(client, action, "main")).exit_code == 1
    assert (await get(client, action, "")).exit_code == 1
    assert (await get(client, action, "team/b")).exit_code == 2


async def test_the_size_is_part_of_the_key(client: ActionCacheClient) -> None:
    """ACG-11."""
    action = an_action()
    await update(client, action, result_of())
    with pytest.raises(NotFound):
        await get(client, action._replace(size_bytes=action.size_bytes + 1))


async def test_an_unknown_instance_is_an_invalid_request(client: ActionCacheClient) -> None:
    """INS-04: never NOT_FOUND, which reads as a miss."""
    with pytest.raises(InvalidRequest, match="unknown instance name 'nobody'"):
        await get(client, an_action(), "nobody")
    with pytest.raises(InvalidRequest, match="unknown instance name 'nobody'"):
        await update(client, an_action(), result_of(), "nobody")


@pytest.mark.parametrize(
    ("digest", "function", "why"),
    [
        (pb.Digest(), 0, "action_digest is required"),
        (pb.Digest(hash="abc", size_bytes=1), 0, "hashes of 3 characters"),
        (pb.Digest(hash="Z" * 64, size_bytes=1), 0, "not lower-case hexadecimal"),
        (pb.Digest(hash="a" * 64, size_bytes=-1), 0, "out of range"),
        (pb.Digest(hash="a" * 64, size_bytes=1), 2, "SHA1 hash has 40 characters"),
        (pb.Digest(hash="a" * 64, size_bytes=1), 77, "digest function 77 is not used here"),
    ],
)
async def test_a_malformed_action_digest_is_an_invalid_request(
    client: ActionCacheClient, digest: pb.Digest, function: int, why: str
) -> None:
    get_request = pb.GetActionResultRequest(instance_name="main", action_digest=digest)
    get_request.digest_function = function  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match=why):
        await client.get_action_result(get_request, timeout=20)
    update_request = pb.UpdateActionResultRequest(instance_name="main", action_digest=digest)
    update_request.digest_function = function  # type: ignore[assignment]
    update_request.action_result.exit_code = 0
    with pytest.raises(InvalidRequest, match=why):
        await client.update_action_result(update_request, timeout=20)


async def test_an_instance_refuses_functions_that_it_does_not_use(client: ActionCacheClient) -> None:
    with pytest.raises(InvalidRequest, match="BLAKE3 is not used here"):
        await get(client, an_action(), "team/b", function=9)


BAD = pb.Digest(hash="abc", size_bytes=1)
GOOD = pb.Digest(hash="a" * 64, size_bytes=1)


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ({"output_files": [{"path": "a", "digest": GOOD}, {"path": "b", "digest": BAD}]}, r"output_files\[1\].digest"),
        ({"output_files": [{"path": "a"}]}, r"output_files\[0\].digest"),
        ({"output_files": [{"path": "/etc/passwd", "digest": GOOD}]}, r"output_files\[0\].path"),
        ({"output_directories": [{"path": "a", "tree_digest": BAD}]}, r"output_directories\[0\].tree_digest"),
        ({"output_directories": [{"path": "a"}]}, r"output_directories\[0\].tree_digest"),
        ({"output_directories": [{"path": "a", "root_directory_digest": BAD}]}, "root_directory_digest"),
        ({"output_directories": [{"path": "/a", "tree_digest": GOOD}]}, r"output_directories\[0\].path"),
        ({"output_symlinks": [{"path": "/a", "target": "b"}]}, r"output_symlinks\[0\].path"),
        ({"stdout_digest": BAD}, "stdout_digest"),
        ({"stderr_digest": BAD}, "stderr_digest"),
    ],
)
async def test_a_result_that_makes_no_sense_is_refused_naming_the_field(
    client: ActionCacheClient, result: dict[str, object], field: str
) -> None:
    """ACU-02."""
    with pytest.raises(InvalidRequest, match=rf"action_result\..*{field}|action_result\.{field}"):
        await update(client, an_action(), pb.ActionResult(**result))  # type: ignore[arg-type]


async def test_a_result_that_no_client_could_receive_is_refused(client: ActionCacheClient) -> None:
    with pytest.raises(InvalidRequest, match="declare directories"):
        await update(client, DigestFunction.SHA256.digest(b"large"), pb.ActionResult(stdout_raw=bytes(4 * 1024 * 1024)))


async def test_an_update_without_a_result_is_refused(client: ActionCacheClient) -> None:
    """ACU-02."""
    request = pb.UpdateActionResultRequest(instance_name="main", action_digest=message(an_action()))
    with pytest.raises(InvalidRequest, match="action_result is required"):
        await client.update_action_result(request, timeout=20)


async def test_who_may_read_may_not_write() -> None:
    """ACU-05."""
    instances = Instances([InstanceSettings(name="main")])
    servicer = ActionCacheServicer(instances, a_memory())
    action = an_action()
    await update(ActionCacheClient(InProcessChannel(servicer)), action, result_of())

    reader = ActionCacheClient(InProcessChannel(servicer, identity=Identity("ann", frozenset({Role.READER}))))
    assert (await get(reader, action)).exit_code == 0
    with pytest.raises(PermissionDenied, match="ann lacks the role 'writer'"):
        await update(reader, action, result_of())

    executor = Identity("bob", frozenset({Role.EXECUTOR}))
    with pytest.raises(PermissionDenied, match="bob lacks the role 'reader'"):
        await get(ActionCacheClient(InProcessChannel(servicer, identity=executor)), action)


async def test_stored_bytes_that_are_no_result_are_a_miss_also_without_checks() -> None:
    store = a_memory()
    servicer = ActionCacheServicer(Instances([InstanceSettings(name="main")]), store)
    action = an_action()
    await store.put("main", action, b"\xff\xff\xff")
    with pytest.raises(NotFound):
        await get(ActionCacheClient(InProcessChannel(servicer)), action)


async def test_checks_of_concurrent_requests_travel_together(client: ActionCacheClient, cas: FakeCas) -> None:
    actions = [an_action() for _ in range(200)]
    for number, action in enumerate(actions):
        await update(client, action, result_of(await cas.keep(f"output {number}".encode())))
    answers = await asyncio.gather(*(get(client, action) for action in actions))
    assert [answer.output_files[0].digest.size_bytes for answer in answers[::100]] == [8, 10]
    assert cas.questions < 100


async def test_capabilities_are_served(channel: Channel) -> None:
    request = pb.GetCapabilitiesRequest(instance_name="main")
    capabilities = await CapabilitiesClient(channel).get_capabilities(request, timeout=20)
    assert capabilities.cache_capabilities.action_cache_update_capabilities.update_enabled == (
        Role.WRITER in ANONYMOUS.roles
    )


async def test_status_and_metrics_tell_of_the_checks(client: ActionCacheClient, cas: FakeCas, run: Path) -> None:
    action = an_action()
    await update(client, action, result_of(await cas.keep(b"output")))
    await get(client, action)
    transport = httpx.AsyncHTTPTransport(uds=f"{run}/admin.sock")
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
        assert "LmdbStore" in (await admin.get("/status")).json()["store"]
        metrics = (await admin.get("/metrics")).text
    assert 'gridwright_actioncache_completeness_checks_total{outcome="complete"} 1.0' in metrics
    assert "gridwright_actioncache_cas_questions_total 1.0" in metrics


async def test_errors_are_ours_whatever_happens(client: ActionCacheClient) -> None:
    with pytest.raises(GridwrightError):
        await get(client, an_action(), timeout=0.000001)
