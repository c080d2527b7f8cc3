"""Actions executed for real, against a CAS in memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from gridwright.blobs.store import read_blob
from gridwright.digest import DigestFunction
from gridwright.errors import FailedPrecondition, GridwrightError, InvalidRequest, MissingBlobs
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.executor import ActionTimedOut
from tests.worker.actions import (
    PATH,
    SHA256,
    Bench,
    Program,
    Symlink,
    digest_of,
    make_bench,
    message_of,
    put_action,
    put_bytes,
    shell,
)
from tests.worker.processes import alive, holds, until


async def test_a_command_reads_its_inputs_and_leaves_an_output(bench: Bench) -> None:
    done = await bench.execute("cat a dir/b > out", {"a": "1", "dir": {"b": "2"}}, output_paths=["out"])
    assert (done.exit_code, await done.files()) == (0, {"out": "12"})


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_every_digest_function_works(bench: Bench, function: DigestFunction) -> None:
    done = await bench.execute(
        "cp a out; mkdir d; cp a d/x; cat a", {"a": "text"}, output_paths=["out", "d"], function=function
    )
    assert await done.files() == {"out": "text"}
    assert await done.stdout() == "text"
    assert (await done.tree("d")).root.files[0].digest == message_of(function.digest(b"text"))


async def test_stdout_stderr_and_exit_code_come_back(bench: Bench) -> None:
    done = await bench.execute("echo o; echo e >&2; exit 3")
    assert (done.exit_code, await done.stdout(), await done.stderr()) == (3, "o\n", "e\n")


async def test_a_silent_command_has_no_stream_digests_and_uploads_nothing(bench: Bench) -> None:
    done = await bench.execute("true")
    assert not done.result.stdout_digest.hash
    assert not done.result.stderr_digest.hash


async def test_a_hundred_megabytes_of_stdout_stay_on_disk(tmp_path: Path) -> None:
    """Measured in a process of its own, whose store drops what it gets."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.worker.large_stdout", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    stdout, _ = await process.communicate()
    answer = json.loads(stdout)
    assert answer["stdout_bytes"] == 100_000_000
    assert answer["grown_mib"] < 40


async def test_the_environment_is_that_of_the_command_and_little_else(bench: Bench) -> None:
    done = await bench.execute(shell("env", {"ONLY": "this one"}))
    variables = dict(line.split("=", 1) for line in (await done.stdout()).splitlines())
    # PWD, SHLVL, OLDPWD and _ are the shell's own.
    assert variables.keys() - {"PWD", "SHLVL", "OLDPWD", "_"} == {"PATH", "ONLY", "TMPDIR"}
    assert variables["ONLY"] == "this one"


async def test_of_a_variable_given_twice_the_last_counts(bench: Bench) -> None:
    command = shell("echo $A")
    command.environment_variables.add(name="A", value="1")
    command.environment_variables.add(name="A", value="2")
    assert await (await bench.execute(command)).stdout() == "2\n"


async def test_a_command_without_path_gets_the_usual_one(bench: Bench) -> None:
    done = await bench.execute(pb.Command(arguments=["env"]))
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in await done.stdout()


async def test_tmpdir_is_there_and_empty_for_each_action(bench: Bench) -> None:
    for _ in range(2):
        done = await bench.execute("ls $TMPDIR; touch $TMPDIR/left")
        assert (done.exit_code, await done.stdout()) == (0, "")


async def test_stdin_is_empty(bench: Bench) -> None:
    assert (await bench.execute("cat")).exit_code == 0


async def test_no_descriptor_of_the_worker_leaks_into_an_action(bench: Bench) -> None:
    done = await bench.execute(pb.Command(arguments=["ls", "/proc/self/fd"]))
    assert (await done.stdout()).split() == ["0", "1", "2", "3"]  # 3: ls reading the directory


async def test_signals_have_their_default_effect(bench: Bench) -> None:
    """Python ignores SIGPIPE, which a command must not inherit."""
    done = await bench.execute(pb.Command(arguments=["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]))
    blocked, ignored = (int(line.split()[1], 16) for line in (await done.stdout()).splitlines())
    # 32 and 33 are glibc's own; its posix_spawn ignores them in every child.
    assert (blocked, ignored & ~(3 << 31)) == (0, 0)


async def test_a_working_directory_is_where_the_command_starts(bench: Bench) -> None:
    done = await bench.execute("pwd; cat f > ../o", {"sub": {"dir": {"f": "x"}}}, working_directory="sub/dir",
                               output_paths=["../o", "none"])  # fmt: skip
    assert (await done.stdout()).strip().endswith("/build/sub/dir")
    assert await done.files() == {"../o": "x"}


@pytest.mark.parametrize("directory", ["/tmp", "../x", "sub/../../x", "absent", "file", "out"])
async def test_a_working_directory_that_is_none_is_refused(bench: Bench, directory: str) -> None:
    with pytest.raises(InvalidRequest):
        await bench.execute("true", {"file": ""}, working_directory=directory, output_paths=["x/y"])


async def test_a_relative_program_is_found_from_the_working_directory(bench: Bench) -> None:
    tool = {"wd": {"tool.sh": Program("#!/bin/sh\necho tool")}}
    done = await bench.execute(pb.Command(arguments=["./tool.sh"], working_directory="wd"), tool)
    assert await done.stdout() == "tool\n"


async def test_a_bare_program_is_found_in_the_commands_own_path(bench: Bench) -> None:
    command = pb.Command(arguments=["tool.sh"])
    command.environment_variables.add(name="PATH", value=f"bin:{PATH}")
    done = await bench.execute(command, {"bin": {"tool.sh": Program("#!/bin/sh\necho mine")}})
    assert await done.stdout() == "mine\n"


@pytest.mark.parametrize(
    ("program", "exit_code", "reason"),
    [
        ("no-such-program", 127, "no such program in PATH="),
        ("./absent", 127, "No such file or directory"),
        ("./plain", 126, "Permission denied"),
        ("./lost", 127, "interpreter"),
        ("./noise", 126, "Exec format error"),
        ("/", 126, "Permission denied"),
    ],
)
async def test_a_command_that_cannot_be_started_says_why(
    bench: Bench, program: str, exit_code: int, reason: str
) -> None:
    inputs = {"plain": "x", "lost": Program("#!/no/such/interpreter\n"), "noise": Program("noise")}
    done = await bench.execute(pb.Command(arguments=[program]), inputs)
    assert done.exit_code == exit_code
    assert reason in await done.stderr()


async def test_a_command_that_a_signal_ends_has_the_shells_exit_code(bench: Bench) -> None:
    assert (await bench.execute("kill -SEGV $$")).exit_code == 128 + signal.SIGSEGV


async def test_what_stays_in_the_background_is_killed_when_the_command_ends(bench: Bench) -> None:
    line = (
        "setsid sleep 1000 & echo $!; (sleep 1000 & echo $!); (setsid sh -c 'sleep 1000 & echo $!; wait' &) ; sleep 0.2"
    )
    done = await bench.execute(line, output_paths=["out"])
    pids = [int(pid) for pid in (await done.stdout()).split()]
    assert len(pids) == 3
    assert alive(pids) == []


async def test_a_timeout_ends_the_whole_tree_and_tells_what_there_is(bench: Bench) -> None:
    line = "setsid sleep 1000 & echo $!; echo $$; (trap '' TERM; sleep 1000) & echo $!; echo x > out; wait; sleep 1000"
    with pytest.raises(ActionTimedOut, match=r"timeout of 0\.5 s") as raised:
        await bench.execute(line, timeout_seconds=0.5, output_paths=["out"])
    result = raised.value.result
    stdout = await read_blob(bench.store, digest_of(result.stdout_digest))
    assert alive(stdout.split()) == []
    assert result.exit_code == 137
    assert [one.path for one in result.output_files] == ["out"]
    assert (await bench.execute("echo next")).exit_code == 0


async def test_a_command_may_end_itself_well_after_sigterm(bench: Bench) -> None:
    with pytest.raises(ActionTimedOut) as raised:
        await bench.execute("trap 'echo bye; exit 0' TERM; sleep 1000 & wait", timeout_seconds=0.3)
    assert await read_blob(bench.store, digest_of(raised.value.result.stdout_digest)) == b"bye\n"


async def test_cancelling_kills_the_whole_tree(bench: Bench) -> None:
    pids = bench.directory / "pids"
    line = f"(setsid sleep 1000 & echo $! >> {pids}); echo $$ >> {pids}; echo end >> {pids}; sleep 1000"
    task = asyncio.create_task(bench.execute(line))
    await until(lambda: holds(pids, "end"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(pids.read_text().split()[:-1]) == []
    assert (await bench.execute("true")).exit_code == 0


@pytest.mark.parametrize("timeout_seconds", [-1, 86_401])
async def test_an_impossible_timeout_is_refused(bench: Bench, timeout_seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        await bench.execute("true", timeout_seconds=timeout_seconds)


async def test_an_action_without_a_timeout_has_the_default(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, default_timeout_seconds=0.2)
    await bench.cache.open()
    with pytest.raises(ActionTimedOut):
        await bench.execute("sleep 1000")
    await bench.executor.close()


async def test_every_timestamp_is_there_and_in_order(bench: Bench) -> None:
    metadata = (await bench.execute("sleep 0.05")).result.execution_metadata
    assert metadata.worker == "w1"
    stamps = [
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ]
    moments = [stamp.ToNanoseconds() for stamp in stamps]
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert 50_000_000 <= metadata.virtual_execution_duration.ToNanoseconds() <= moments[4] - moments[3]


async def test_all_missing_inputs_are_named(bench: Bench) -> None:
    lost = {SHA256.digest(f"lost {number}".encode()) for number in range(3)}
    directory = pb.Directory(
        files=[pb.FileNode(name=f"f{index}", digest=message_of(one)) for index, one in enumerate(sorted(lost))],
        directories=[pb.DirectoryNode(name="d", digest=message_of(SHA256.digest(b"no directory")))],
    )
    directory.files.add(name="z", digest=await put_bytes(bench.store, b"here"))
    absent_command = SHA256.digest(b"no command")
    action = pb.Action(
        command_digest=message_of(absent_command),
        input_root_digest=await put_bytes(bench.store, directory.SerializeToString()),
    )
    with pytest.raises(MissingBlobs) as raised:
        await bench.executor.execute(action, SHA256)
    assert set(raised.value.digests) == lost | {absent_command, SHA256.digest(b"no directory")}

    directory.ClearField("directories")
    action = await put_action(bench.store, "true")
    action.input_root_digest.CopyFrom(await put_bytes(bench.store, directory.SerializeToString()))
    with pytest.raises(MissingBlobs) as raised:
        await bench.executor.execute(action, SHA256)
    assert set(raised.value.digests) == lost


async def test_an_input_of_another_size_is_missing(bench: Bench) -> None:
    digest = await put_bytes(bench.store, b"12345")
    digest.size_bytes += 1
    root = await put_bytes(bench.store, pb.Directory(files=[pb.FileNode(name="f", digest=digest)]).SerializeToString())
    action = await put_action(bench.store, "true")
    action.input_root_digest.CopyFrom(root)
    with pytest.raises(MissingBlobs):
        await bench.executor.execute(action, SHA256)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "nul\0", "x" * 256])
async def test_a_name_that_is_not_one_segment_is_refused(bench: Bench, name: str) -> None:
    content = await put_bytes(bench.store, b"x")
    for directory in (
        pb.Directory(files=[pb.FileNode(name=name, digest=content)]),
        pb.Directory(directories=[pb.DirectoryNode(name=name, digest=message_of(SHA256.empty))]),
        pb.Directory(symlinks=[pb.SymlinkNode(name=name, target="x")]),
    ):
        await refuses(bench, directory, "not one path segment")


async def test_a_name_that_occurs_twice_is_refused(bench: Bench) -> None:
    directory = pb.Directory(
        files=[pb.FileNode(name="x", digest=await put_bytes(bench.store, b"x"))],
        directories=[pb.DirectoryNode(name="x", digest=message_of(SHA256.empty))],
    )
    await refuses(bench, directory, "twice")


async def test_bytes_that_are_no_directory_are_refused(bench: Bench) -> None:
    bad = await put_bytes(bench.store, b"\xff\xff")
    await refuses(bench, pb.Directory(directories=[pb.DirectoryNode(name="d", digest=bad)]), "is not a Directory")


async def test_a_tree_of_exponentially_many_paths_is_refused(bench: Bench) -> None:
    digest = message_of(SHA256.empty)
    for _ in range(40):
        level = pb.Directory(directories=[pb.DirectoryNode(name=name, digest=digest) for name in "ab"])
        digest = await put_bytes(bench.store, level.SerializeToString())
    await refuses(bench, pb.Directory(directories=[pb.DirectoryNode(name="d", digest=digest)]), "entries")


async def refuses(bench: Bench, directory: pb.Directory, why: str) -> None:
    action = await put_action(bench.store, "true")
    action.input_root_digest.CopyFrom(await put_bytes(bench.store, directory.SerializeToString()))
    with pytest.raises(InvalidRequest, match=why):
        await bench.executor.execute(action, SHA256)


@pytest.mark.parametrize(
    "command",
    [
        pb.Command(),
        pb.Command(arguments=[""]),
        pb.Command(arguments=["a\0b"]),
        pb.Command(arguments=["a"], output_paths=["/abs"]),
        pb.Command(arguments=["a"], output_paths=["a/"]),
        pb.Command(arguments=["a"], output_paths=["../x"]),
        pb.Command(arguments=["a"], output_paths=["nul\0"]),
        pb.Command(arguments=["a"], output_node_properties=["bogus"]),
        pb.Command(arguments=["a"], environment_variables=[pb.Command.EnvironmentVariable(name="a=b")]),
    ],
)
async def test_a_command_that_cannot_mean_anything_is_refused(bench: Bench, command: pb.Command) -> None:
    with pytest.raises(InvalidRequest):
        await bench.execute(command)


async def test_bytes_that_are_no_command_are_refused(bench: Bench) -> None:
    action = await put_action(bench.store, "true")
    action.command_digest.CopyFrom(await put_bytes(bench.store, b"\xff\xff"))
    with pytest.raises(InvalidRequest, match="is not a Command"):
        await bench.executor.execute(action, SHA256)


async def test_inputs_have_their_executable_bit_and_cannot_be_written_by_their_mode(bench: Bench) -> None:
    done = await bench.execute(
        "stat -c %a f x; ls -d e; readlink l", {"f": "same", "x": Program("same"), "e": {}, "l": Symlink("../x/./y")}
    )
    assert (await done.stdout()).split() == ["444", "555", "e", "../x/./y"]


async def test_absolute_and_dangling_symlinks_are_staged_as_they_are(bench: Bench) -> None:
    inputs = {"a": Symlink("/etc/hosts"), "n": Symlink("nowhere"), "r": Symlink("d/f"), "d": {"f": "in"}}
    done = await bench.execute("readlink a n r; cat r", inputs)
    assert (await done.stdout()).split() == ["/etc/hosts", "nowhere", "d/f", "in"]


async def test_an_input_that_an_action_changes_is_whole_again_for_the_next(bench: Bench) -> None:
    """As root the mode does not keep an action from writing to the file that the cache holds, too."""
    for _ in range(2):
        done = await bench.execute("cat f; chmod u+w f; echo spoilt >> f", {"f": "good\n"})
        assert await done.stdout() == "good\n"


async def test_nothing_of_an_action_is_seen_by_the_next(bench: Bench) -> None:
    await bench.execute("mkdir -p d/e; touch d/e/f g; chmod 0 d; touch ../stray")
    done = await bench.execute("ls -A; ls -A ..")
    assert (await done.stdout()).split() == ["build", "stderr", "stdout", "tmp"]


async def test_directories_deeper_than_any_path_are_gone_for_the_next(bench: Bench) -> None:
    line = f'{sys.executable} -c \'import os\nfor _ in range(3000): os.mkdir("d"); os.chdir("d")\''
    with pytest.raises(FailedPrecondition, match="deep"):
        await bench.execute(line, output_paths=["d"])
    assert await (await bench.execute("ls -A; ls -A ..")).stdout() == "build\nstderr\nstdout\ntmp\n"


async def test_an_action_that_replaces_its_input_root_harms_nothing(bench: Bench) -> None:
    precious = bench.directory / "precious"
    precious.mkdir()
    (precious / "out").write_text("kept")
    line = f"cd ..; rm -rf build; ln -s {precious} build"
    with pytest.raises(FailedPrecondition):
        await bench.execute(line, output_paths=["out"])
    assert (await bench.execute("ls -A")).exit_code == 0
    assert (precious / "out").read_text() == "kept"


async def test_input_properties_are_applied_without_touching_what_others_share(bench: Bench) -> None:
    content = await put_bytes(bench.store, b"x")
    directory = pb.Directory(files=[pb.FileNode(name=name, digest=content) for name in ("plain", "special")])
    directory.files[1].node_properties.mtime.FromSeconds(1_000_000)
    directory.files[1].node_properties.unix_mode.value = 0o4640
    directory.node_properties.mtime.FromSeconds(2_000_000)
    directory.node_properties.properties.add(name="SubtreeReadOnly", value="true")
    action = await put_action(bench.store, "stat -c '%n %a %Y' plain special; stat -c %Y .")
    action.input_root_digest.CopyFrom(await put_bytes(bench.store, directory.SerializeToString()))
    stdout = await read_blob(bench.store, digest_of((await bench.executor.execute(action, SHA256)).stdout_digest))
    assert stdout.decode().splitlines() == ["plain 444 1262304000", "special 640 1000000", "2000000"]


async def test_every_slot_shows_the_same_path_where_the_host_allows_it(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, fixed_path=True)
    await bench.cache.open()
    done = await bench.execute("pwd; echo o > out", output_paths=["out"])
    assert await done.files() == {"out": "o\n"}
    allowed = os.geteuid() == 0
    expected = tmp_path / "slot" / "build" if allowed else tmp_path / "slots" / "0" / "build"
    assert await done.stdout() == f"{expected}\n"
    assert list((tmp_path / "slot").iterdir()) == []
    await bench.executor.close()


async def test_an_error_leaves_the_slot_in_order(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(GridwrightError):
            await bench.execute("mkfifo out", output_paths=["out"])
    assert await (await bench.execute("echo ok")).stdout() == "ok\n"
