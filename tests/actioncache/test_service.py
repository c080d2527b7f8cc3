"""The action cache as clients see it, over gRPC, with a CAS over gRPC behind it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridwright.auth.authenticator import SERVICE_HEADER
from gridwright.auth.identity import ANONYMOUS, Identity, Role
from gridwright.auth.result_writers import ResultWriters
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import DigestFunction
from gridwright.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    GridwrightError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from gridwright.instances import Instance, Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient, CapabilitiesClient
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.clock import FakeClock
from gridwright.wire.capabilities import server_capabilities
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.rpc import Channel
from gridwright_actioncache.lookups import Lookups
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.servicers.actioncache import ActionCacheServicer
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action
from tests.actioncache.documents import a_blob, directory, message, tree
from tests.actioncache.result_stores import a_memory
from tests.actioncache.service import actioncache, get, result_of, serving_cas, update


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


async def test_contents_come_inside_on_request_and_go_to_the_cas_when_they_are_sent(
    client: ActionCacheClient, cas: FakeCas
) -> None:
    """ACG-06 to ACG-08, ACU-06."""
    action, output = an_action(), await cas.keep(b"output")
    sent = result_of(output)
    sent.stdout_raw = b"out"
    answer = await update(client, action, sent)
    assert (answer.stdout_raw, answer.stdout_digest.size_bytes) == (b"", 3)
    plain = await get(client, action)
    assert (plain.stdout_raw, plain.output_files[0].contents) == (b"", b"")
    assert plain.stdout_digest == message(DigestFunction.SHA256.digest(b"out"))
    full = await get(client, action, inline={"inline_stdout": True, "inline_output_files": ["out/0", "nope"]})
    assert (full.stdout_raw, full.output_files[0].contents) == (b"out", b"output")
    assert full.stdout_digest == plain.stdout_digest


async def test_a_client_with_grpcs_own_limit_receives_every_answer(run: Path, cas: FakeCas) -> None:
    """ACG-07, GRP-03."""
    sizes = [100, 3_000_000, 4_000_000, 4_194_304, 8_000_000]
    async with actioncache(run):
        target, limit = f"unix:{run}/actioncache.sock", ("grpc.max_receive_message_length", 4 * 1024 * 1024)
        async with GrpcChannel(target, options=[limit]) as channel:
            client = ActionCacheClient(channel)
            for size_bytes in sizes:
                action, result = an_action(), result_of()
                result.stdout_digest.CopyFrom(message(await cas.keep(bytes(size_bytes))))
                await update(client, action, result)
                answer = await get(client, action, inline={"inline_stdout": True})
                assert answer.stdout_digest.size_bytes == size_bytes
                assert len(answer.stdout_raw) == (size_bytes if size_bytes <= 3_000_000 else 0)


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
    """GRP-03."""
    with pytest.raises(InvalidRequest, match="declare directories"):
        await update(client, DigestFunction.SHA256.digest(b"large"), result_of(*[a_blob()] * 50_000))


async def test_an_update_without_a_result_is_refused(client: ActionCacheClient) -> None:
    """ACU-02."""
    request = pb.UpdateActionResultRequest(instance_name="main", action_digest=message(an_action()))
    with pytest.raises(InvalidRequest, match="action_result is required"):
        await client.update_action_result(request, timeout=20)


def a_servicer(store: ResultStore, blobs: BlobStore | None = None, **settings: object) -> ActionCacheServicer:
    """Return a servicer of one instance, `main`, with *settings*, and a CAS that is empty unless it is given."""
    instances = Instances([InstanceSettings.model_validate({"name": "main", **settings})])
    return ActionCacheServicer(
        instances, store, {"main": blobs or MemoryStore(max_bytes=10**6)}, FakeClock(), Lookups()
    )


def client_of(servicer: ActionCacheServicer, *roles: Role) -> ActionCacheClient:
    return ActionCacheClient(InProcessChannel(servicer, identity=Identity("ann", frozenset(roles))))


async def test_who_may_read_may_not_write() -> None:
    """ACU-05."""
    servicer = a_servicer(a_memory())
    action = an_action()
    await update(client_of(servicer, Role.WRITER), action, result_of())
    assert (await get(client_of(servicer, Role.READER), action)).exit_code == 0
    with pytest.raises(PermissionDenied, match="ann may not write results of instance 'main'"):
        await update(client_of(servicer, Role.READER), action, result_of())
    with pytest.raises(PermissionDenied, match="ann lacks the role 'reader'"):
        await get(client_of(servicer, Role.EXECUTOR), action)


@pytest.mark.parametrize("writers", list(ResultWriters))
@pytest.mark.parametrize("role", [Role.READER, Role.WRITER, Role.SCHEDULER, Role.ADMIN, Role.WORKER])
async def test_who_may_write_is_what_capabilities_say(writers: ResultWriters, role: Role) -> None:
    """ACU-05, CAP-13."""
    instance = InstanceSettings(name="main", result_writers=writers)
    said = server_capabilities(Instance.from_settings(instance), frozenset({role}))
    may_write = True
    try:
        await update(client_of(a_servicer(a_memory(), result_writers=writers), role), an_action(), result_of())
    except PermissionDenied:
        may_write = False
    assert said.cache_capabilities.action_cache_update_capabilities.update_enabled == may_write


async def test_where_anyone_writes_results_blobs_are_still_those_of_who_may_upload() -> None:
    servicer, result = a_servicer(a_memory(), result_writers=ResultWriters.ANYONE), result_of()
    await update(client_of(servicer, Role.READER), an_action(), result)
    result.stdout_raw = b"out"
    with pytest.raises(PermissionDenied, match="lacks the role 'cas_writer'"):
        await update(client_of(servicer, Role.READER), an_action(), result)
    await update(client_of(servicer, Role.READER, Role.CAS_WRITER), an_action(), result)


async def test_only_the_scheduler_writes_where_only_it_may(channel: Channel) -> None:
    client, action = ActionCacheClient(channel), an_action()
    with pytest.raises(PermissionDenied, match="anonymous may not write results of instance 'ours'"):
        await update(client, action, result_of(), "ours")
    request = pb.UpdateActionResultRequest(
        instance_name="ours", action_digest=message(action), action_result=result_of(exit_code=3)
    )
    await client.update_action_result(request, timeout=20, metadata=((SERVICE_HEADER, "scheduler"),))
    assert (await get(client, action, "ours")).exit_code == 3


async def test_an_instance_that_is_read_only_says_so(channel: Channel) -> None:
    with pytest.raises(PermissionDenied, match="instance 'frozen' is read-only; write results to another one"):
        await update(ActionCacheClient(channel), an_action(), result_of(), "frozen")


async def test_stored_bytes_that_are_no_result_are_a_miss_also_without_checks() -> None:
    store = a_memory()
    action = an_action()
    await store.put("main", action, b"\xff\xff\xff")
    with pytest.raises(NotFound):
        await get(client_of(a_servicer(store), Role.READER), action)


async def test_a_result_that_another_cache_took_and_no_client_can_receive_is_a_miss() -> None:
    """GRP-03."""
    store, action = a_memory(), an_action()
    await store.put("main", action, result_of(*[a_blob()] * 50_000).SerializeToString())
    with pytest.raises(NotFound):
        await get(client_of(a_servicer(store), Role.READER), action)


async def test_an_update_of_an_action_that_is_not_to_be_cached_is_refused(
    client: ActionCacheClient, cas: FakeCas
) -> None:
    """ACU-11."""
    action = await cas.keep(pb.Action(do_not_cache=True).SerializeToString())
    with pytest.raises(FailedPrecondition, match="do_not_cache"):
        await update(client, action, result_of())
    with pytest.raises(NotFound):
        await get(client, action)


async def test_a_strict_instance_wants_action_command_and_outputs_in_the_cas(
    client: ActionCacheClient, cas: FakeCas
) -> None:
    """ACU-03, ACU-10."""
    command, output = await cas.keep(b"command"), await cas.keep(b"output")
    action_data = pb.Action(command_digest=message(command)).SerializeToString()
    action = DigestFunction.SHA256.digest(action_data)
    with pytest.raises(FailedPrecondition, match="missing from the CAS"):
        await update(client, action, result_of(output), "strict")
    await cas.keep(action_data)
    for lost in (command, output):
        cas.lost = {lost}
        with pytest.raises(FailedPrecondition, match=lost.hash):
            await update(client, action, result_of(output), "strict")
    cas.lost = set()
    await update(client, action, result_of(output), "strict")
    assert await get(client, action, "strict") == result_of(output)


async def test_without_the_cas_only_what_the_scheduler_has_run_is_taken() -> None:
    servicer = a_servicer(a_memory(), BrokenStore(Unavailable("down")))
    action = an_action()
    with pytest.raises(Unavailable):
        await update(client_of(servicer, Role.WRITER), action, result_of())
    await update(client_of(servicer, Role.SCHEDULER), action, result_of())
    assert await get(client_of(servicer, Role.READER), action) == result_of()


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
    assert "LmdbStore" in (await status_of(run))["store"]
    metrics = await metrics_of(run)
    assert 'gridwright_actioncache_completeness_checks_total{outcome="complete"} 1.0' in metrics
    assert "gridwright_actioncache_cas_questions_total 1.0" in metrics


async def test_metrics_tell_hits_and_why_there_were_misses(client: ActionCacheClient, cas: FakeCas, run: Path) -> None:
    for output, exit_code in ((await cas.keep(b"output"), 0), (a_blob(), 1)):
        action = an_action()
        await update(client, action, result_of(output, exit_code=exit_code))
        with suppress(NotFound):
            await get(client, action)
    malformed, no_tree = result_of(), await cas.keep(b"\xff is no Tree")
    malformed.output_directories.add(path="d", tree_digest=message(no_tree))
    action = an_action()
    await update(client, action, malformed)
    for unknown in (action, an_action(), an_action()):
        with pytest.raises(NotFound):
            await get(client, unknown)
    metrics = await metrics_of(run)
    assert 'gridwright_actioncache_lookups_total{instance="main",outcome="hit"} 1.0' in metrics
    assert 'gridwright_actioncache_lookups_total{instance="main",outcome="miss"} 4.0' in metrics
    for reason, count in {"absent": 2, "incomplete": 1, "malformed": 1, "expired": 0, "too_large": 0}.items():
        assert f'gridwright_actioncache_misses_total{{reason="{reason}"}} {count}.0' in metrics


async def test_status_and_metrics_tell_whether_the_cas_answers(run: Path) -> None:
    cas = FakeCas()
    async with AsyncExitStack() as cas_is_up, actioncache(run) as channel:
        client = ActionCacheClient(channel)
        assert (await status_of(run))["dependencies"]["cas"]["state"] == "unknown"
        await cas_is_up.enter_async_context(serving_cas(cas, run))
        action = an_action()
        await update(client, action, result_of(await cas.keep(b"output")))
        assert (await status_of(run))["dependencies"]["cas"]["state"] == "ok"
        assert 'gridwright_actioncache_dependency_up{dependency="cas"} 1.0' in await metrics_of(run)
        await cas_is_up.aclose()
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await get(client, action, timeout=1)
        said = (await status_of(run))["dependencies"]["cas"]
        assert said["state"] == "failing"
        assert said["last_error"]
        metrics = await metrics_of(run)
        assert 'gridwright_actioncache_dependency_up{dependency="cas"} 0.0' in metrics


async def metrics_of(run: Path) -> str:
    return (await _admin_page(run, "/metrics")).text


async def status_of(run: Path) -> Any:
    return (await _admin_page(run, "/status")).json()


async def _admin_page(run: Path, page: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=f"{run}/admin.sock")
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
        return await admin.get(page)


async def test_errors_are_ours_whatever_happens(client: ActionCacheClient) -> None:
    with pytest.raises(GridwrightError):
        await get(client, an_action(), timeout=0.000001)
