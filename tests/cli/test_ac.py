"""`gridwright ac` on an endpoint, and on the directory of the action cache behind it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import NotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.protos.gridwright.actioncache.v1.operator_pb2 import ExplainResponse
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.filesystem import FilesystemResultStore
from gridwright_actioncache.results.provenance import Provenance, with_provenance
from gridwright_cli.ac.moments import moment_of
from gridwright_cli.ac.words import result_lines
from gridwright_cli.app import app
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action, walked
from tests.actioncache.documents import a_blob
from tests.actioncache.service import actioncache, get, result_of, serving_cas, update
from tests.cli.cas_commands import words


class Cache:
    """A running action cache: its CAS, a client, and the two ways in which the command reaches it."""

    def __init__(self, run: Path, cas: FakeCas, client: ActionCacheClient) -> None:
        self.cas = cas
        self.client = client
        self.ways = {
            "endpoint": ["--remote", f"unix:{run}/actioncache.sock"],
            "directory": ["--directory", f"{run}/results"],
        }

    async def ac(self, command: str, *arguments: str, way: str = "endpoint", stdin: str = "") -> tuple[int, str, str]:
        """Run `gridwright ac`; return its status, and what it said on stdout and stderr."""
        return await ac(command, *self.ways[way], *arguments, stdin=stdin)

    async def stored(self, action: Digest) -> bool:
        try:
            await get(self.client, action)
        except NotFound:
            return False
        return True


async def ac(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    def run() -> tuple[int, str, str]:
        ended = CliRunner().invoke(app, ["ac", *arguments], input=stdin, prog_name="gridwright")
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended.exit_code, ended.stdout, words(ended.stderr)

    return await asyncio.to_thread(run)


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    fake = FakeCas()
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        run = Path(name)
        async with serving_cas(fake, run), actioncache(run) as channel:
            yield Cache(run, fake, ActionCacheClient(channel))


WAYS = pytest.mark.parametrize("way", ["endpoint", "directory"])


@WAYS
async def test_a_stored_result_is_shown_with_where_it_came_from(cache: Cache, way: str) -> None:
    action, output = an_action(), await cache.cas.keep(b"output")
    await update(cache.client, action, result_of(output, exit_code=3))
    status, out, err = await cache.ac("get", str(action), way=way)
    assert (status, err) == (0, "")
    first, *rest = out.splitlines()
    assert first.startswith("written by anonymous as writer, 20")
    assert first.endswith("Z, made by worker worker-1")
    assert rest == ["exit code 3", "worker worker-1", f"file out/0 {output}"]


def test_what_somebody_wrote_into_a_result_does_not_command_the_terminal() -> None:
    result = pb.ActionResult(output_files=[pb.OutputFile(path="a\nfile b", digest=pb.Digest(hash="ab", size_bytes=1))])
    result.execution_metadata.worker = "\x1b]0;title\x07w"
    result.execution_metadata.worker_completed_timestamp.seconds = 10**14
    assert list(result_lines(ExplainResponse(action_result=result.SerializeToString()))) == [
        "exit code 0",
        r"worker \x1b]0;title\x07w",
        "completed at no moment that there is",
        r"file a\nfile b ab/1",
    ]


@WAYS
async def test_the_bytes_of_a_result_come_as_they_are_stored(cache: Cache, way: str) -> None:
    action = an_action()
    await update(cache.client, action, result_of(exit_code=3))
    result = pb.ActionResult.FromString((await cache.ac("get", "--raw", str(action), way=way))[1].encode())
    assert result == result_of(exit_code=3)


@WAYS
async def test_what_is_not_stored_is_said_so(cache: Cache, way: str) -> None:
    absent = str(an_action())
    assert await cache.ac("get", absent, way=way) == (1, "", f"{absent}: not found")
    status, out, _ = await cache.ac("why", absent, way=way)
    assert (status, out.startswith("miss: nothing is stored for this action")) == (1, True)


async def test_why_names_the_blobs_that_are_missing(cache: Cache) -> None:
    action, lost = an_action(), a_blob()
    await update(cache.client, action, result_of(lost, await cache.cas.keep(b"output")))
    status, out, _ = await cache.ac("why", str(action))
    assert status == 1
    assert out.startswith("miss: the CAS lacks 1 blob that the result names\nwritten by anonymous")
    assert out.splitlines()[2:] == [f"missing {lost}"]
    status, out, _ = await cache.ac("why", str(action), way="directory")
    assert (status, out.startswith("stored; whether its outputs are in the CAS, only the endpoint can say")) == (
        0,
        True,
    )


async def test_why_says_of_a_hit_that_it_is_one(cache: Cache) -> None:
    action = an_action(DigestFunction.BLAKE3)
    request = pb.UpdateActionResultRequest(
        instance_name="main",
        action_digest=pb.Digest(hash=action.hash, size_bytes=action.size_bytes),
        action_result=result_of(),
        digest_function=pb.DigestFunction.BLAKE3,
    )
    await cache.client.update_action_result(request, timeout=20)
    for text in (str(action), f"{action.hash}/{action.size_bytes}"):
        status, out, _ = await cache.ac("why", text, "--digest-function", "blake3")
        assert (status, out.splitlines()[0]) == (0, "hit")


@WAYS
async def test_single_results_are_removed(cache: Cache, way: str) -> None:
    actions = [an_action() for _ in range(4)]
    for action in actions:
        await update(cache.client, action, result_of())
    stdin = f"{actions[1]} a comment\n\n{actions[2]}\n"
    assert await cache.ac("rm", str(actions[0]), "-", str(an_action()), way=way, stdin=stdin) == (
        0,
        "removed what was stored for 4 actions\n",
        "",
    )
    assert [await cache.stored(action) for action in actions] == [False, False, False, True]


@WAYS
async def test_a_purge_revokes_what_a_worker_made_while_the_service_runs(cache: Cache, way: str) -> None:
    bad, good = [an_action() for _ in range(3)], an_action()
    for action in bad:
        await update(cache.client, action, result_of())
    other = result_of()
    other.execution_metadata.worker = "worker-2"
    await update(cache.client, good, other)
    assert await cache.ac("purge", "--worker", "worker-1", "--since", "1h", "--dry-run", way=way) == (
        0,
        "would remove 3 results of 4 that are stored\n",
        "",
    )
    assert await cache.stored(bad[0])
    for options in (["--since", "1h", "--until", "30m"], ["--until", "2001-01-01"], ["--subject", "bob"]):
        _, out, _ = await cache.ac("purge", *options, way=way)
        assert out == "removed 0 results of 4 that are stored\n"
    _, out, _ = await cache.ac("purge", "--worker", "worker-1", "--since", "1h", "--subject", "anonymous", way=way)
    assert out == "removed 3 results of 4 that are stored\n"
    assert [await cache.stored(action) for action in (*bad, good)] == [False, False, False, True]


async def test_a_purge_of_everything_must_be_meant(cache: Cache) -> None:
    status, _, err = await cache.ac("purge")
    assert (status, "say which: --worker, --subject, --since or --until" in err) == (2, True)


async def test_the_directory_of_a_filesystem_store_serves_while_no_service_uses_it(tmp_path: Path) -> None:
    bad, good = an_action(), an_action()

    def opened() -> object:
        return FilesystemResultStore.opened(tmp_path, FakeClock(), policy=EvictionPolicy())

    async with opened() as store:  # type: ignore[attr-defined]
        await store.put("main", bad, with_provenance(b"\x20\x01", Provenance("ann", "writer", 1000.0, "worker-1")))
        await store.put("main", good, with_provenance(b"\x20\x01", Provenance("ann", "writer", 1000.0, "worker-2")))
        status, _, err = await ac("purge", "--directory", str(tmp_path), "--worker", "worker-1")
        assert (status, "another process keeps its results in" in err) == (125, True)
    assert (await ac("purge", "--directory", str(tmp_path), "--worker", "worker-1"))[1].startswith("removed 1 result")
    async with opened() as store:  # type: ignore[attr-defined]
        assert set(await walked(store)) == {good}


async def test_another_directory_is_no_action_cache(tmp_path: Path) -> None:
    status, _, err = await ac("purge", "--directory", str(tmp_path), "--worker", "w")
    assert (status, "is no directory of an action cache" in err) == (125, True)


def test_a_directory_that_is_none_stays_as_it_was(tmp_path: Path) -> None:
    asyncio.run(ac("get", "--directory", str(tmp_path), str(an_action())))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["why", "nonsense"], 2, "is no digest: write HASH/SIZE"),
        (["rm", "nonsense"], 2, "is no digest: write HASH/SIZE"),
        (["purge", "--since", "yesterday"], 2, "write 2026-11-20T03:00:00Z, or how long ago"),
        (["why", f"{'ab' * 32}/5", "--remote", "unix:/no/such.sock"], 121, "cannot reach unix:/no/such.sock"),
        (["why", f"{'ab' * 32}/5", "--directory", "/no/such"], 2, "does not exist"),
    ],
)
async def test_what_cannot_be_done_is_one_line_and_a_status(arguments: list[str], status: int, says: str) -> None:
    ended, out, err = await ac(*arguments)
    assert (ended, out) == (status, "")
    assert says in err


async def test_an_endpoint_refuses_to_purge_for_those_who_are_no_operators() -> None:
    fake = FakeCas()
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        run = Path(name)
        async with serving_cas(fake, run), actioncache(run, local_operators=False):
            remote = f"unix:{run}/actioncache.sock"
            status, _, err = await ac("purge", "--remote", remote, "--worker", "w")
            assert (status, "lacks the role 'admin'" in err, "auth.local_operators" in err) == (122, True, True)
            assert (await ac("why", "--remote", remote, f"{'ab' * 32}/5"))[0] == 1


@pytest.mark.parametrize(
    ("text", "unix_seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-01T00:01:00", 60),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T01:00:00+01:00", 0),
        ("100s", 900),
        ("10m", 400),
    ],
)
def test_moments_are_dates_or_how_long_ago(monkeypatch: pytest.MonkeyPatch, text: str, unix_seconds: int) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert moment_of(text, option="--since").ToSeconds() == unix_seconds
