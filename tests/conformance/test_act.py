"""What Actions and Commands say, and what a worker makes of it (checklist ACT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.rpc import code_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import output, run_action
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.commands import (
    action_of,
    code_of,
    contents,
    execute,
    files_of,
    missing_of,
    put,
    shell,
    subject,
    tree,
)
from tests.conformance.target import Target

INVALID = code_pb2.INVALID_ARGUMENT
#: Field 500, of a later version, which holds "abc".
UNKNOWN_FIELD = b"\xa2\x1f\x03abc"
TOOL = b'#!/bin/sh\necho "$0" > "${1:-out}"\n'


async def test_act_01_an_action_without_a_command_is_invalid(target: Target) -> None:
    action = pb.Action(input_root_digest=await tree(target, {}), salt=fresh(16))
    assert await code_of(target, await put(target, action)) == INVALID


async def test_act_01_a_command_that_is_not_there_is_reported_as_missing(target: Target) -> None:
    command = digest_of(fresh())
    action = pb.Action(command_digest=command, input_root_digest=await tree(target, {}))
    assert await missing_of(target, await put(target, action)) == {subject(command)}


async def test_act_02_an_action_without_an_input_root_is_invalid(target: Target) -> None:
    action = pb.Action(command_digest=await put(target, shell("true")), salt=fresh(16))
    assert await code_of(target, await put(target, action)) == INVALID


async def test_act_02_a_file_below_that_is_not_there_is_reported_as_missing(target: Target) -> None:
    absent = digest_of(fresh())
    below = await put(target, pb.Directory(files=[{"name": "f", "digest": absent}]))
    root = await put(target, pb.Directory(directories=[{"name": "d", "digest": below}]))
    action = pb.Action(command_digest=await put(target, shell("true")), input_root_digest=root)
    assert await missing_of(target, await put(target, action)) == {subject(absent)}


@pytest.mark.parametrize("garbage", [b"\x00" * 16, b"\x0a\xff" + b"\xff" * 14])
async def test_act_03_a_command_that_is_none_is_invalid(target: Target, garbage: bytes) -> None:
    action = pb.Action(command_digest=await target.put(garbage), input_root_digest=await tree(target, {}))
    assert await code_of(target, await put(target, action)) == INVALID


async def test_act_04_a_command_without_arguments_is_invalid(target: Target) -> None:
    await is_invalid(target, pb.Command())


@pytest.mark.parametrize(
    ("program", "start"),
    [("/bin/sh", ""), ("./tool.sh", ""), ("tools/x", ""), ("./x", "tools"), ("../tool.sh", "tools"), ("sh", "")],
)
async def test_act_05_a_program_is_found_by_path_or_by_name(target: Target, program: str, start: str) -> None:
    inputs = {"tool.sh": TOOL, "tools/x": TOOL}
    arguments = [program, "-c", "echo found > out"] if program.endswith("/sh") or program == "sh" else [program]
    path = [{"name": "PATH", "value": "/usr/bin:/bin"}]
    command = pb.Command(arguments=arguments, environment_variables=path, working_directory=start, output_paths=["out"])
    assert await contents(target, await execute(target, command, inputs), "out")


async def test_act_06_the_environment_has_the_variables_of_the_command(target: Target) -> None:
    given = {"A": "1", "HOME": "/somewhere", "PATH": "/usr/bin:/bin", "WITH_SPACE": "a b = c"}
    environment = await environment_of(target, given)
    assert given.items() <= environment.items()


async def test_act_07_a_worker_adds_little_to_the_environment(target: Target) -> None:
    environment = await environment_of(target, {"PATH": "/usr/bin:/bin"})
    assert environment.keys() <= {"PATH", "HOME", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}


async def test_act_08_of_two_values_of_a_variable_the_last_counts(target: Target) -> None:
    command = shell('echo "$B $A" > out', output_paths=["out"])
    for name, value in (("B", "b"), ("A", "first"), ("A", "last")):
        command.environment_variables.add(name=name, value=value)
    assert await contents(target, await execute(target, command), "out") == b"b last\n"


async def test_act_09_a_command_begins_in_its_working_directory(target: Target) -> None:
    command = shell("pwd > out; ls", working_directory="sub/dir", output_paths=["out"])
    response = await execute(target, command, {"sub/dir/f": b"x"})
    assert (await contents(target, response, "out")).endswith(b"/sub/dir\n")
    root = shell("ls > out", output_paths=["out"])
    assert b"sub\n" in await contents(target, await execute(target, root, {"sub/dir/f": b"x"}), "out")


async def test_act_09_a_working_directory_that_is_not_there_is_an_error(target: Target) -> None:
    action = await action_of(target, shell("true", working_directory="not/there"))
    assert await code_of(target, action) in (INVALID, code_pb2.FAILED_PRECONDITION)


@pytest.mark.parametrize("directory", ["/tmp", "../x", "a/../../x"])
async def test_act_10_a_working_directory_outside_is_invalid(target: Target, directory: str) -> None:
    await is_invalid(target, shell("true", working_directory=directory))


@pytest.mark.parametrize("path", ["/abs", "a/", "/"])
async def test_act_11_output_paths_are_relative(target: Target, path: str) -> None:
    await is_invalid(target, shell("true", output_paths=[path]))


async def test_act_11_output_paths_begin_at_the_working_directory(target: Target) -> None:
    command = shell("echo hello > out", working_directory="sub", output_paths=["out"])
    response = await execute(target, command, {"sub/f": b"x"})
    assert await contents(target, response, "out") == b"hello\n"


async def test_act_12_output_paths_may_go_up_and_stay_as_they_were_asked_for(target: Target) -> None:
    command = shell("mkdir -p ../gen; echo hello > ../gen/x", working_directory="out", output_paths=["../gen/x"])
    response = await execute(target, command, {"out/f": b"x"})
    assert await contents(target, response, "../gen/x") == b"hello\n"


@pytest.mark.parametrize(("start", "path"), [("", "."), ("a/b", "../..")])
async def test_act_12_the_input_root_may_be_an_output(target: Target, start: str, path: str) -> None:
    command = shell("echo hello > new", working_directory=start, output_paths=[path])
    (directory,) = (await execute(target, command, {"a/b/f": b"x"})).result.output_directories
    assert directory.path == path
    assert "a/b/f" in await files_of(target, directory)


async def test_act_12_output_paths_that_leave_the_input_root_are_invalid(target: Target) -> None:
    await is_invalid(target, shell("true", working_directory="a/b", output_paths=["../../../x"]), {"a/b/f": b"x"})


async def test_act_13_output_paths_may_come_unsorted_and_twice(target: Target) -> None:
    command = shell("echo 1 > a; echo 2 > b", output_paths=["b", "a", "b"])
    response = await execute(target, command)
    assert {file.path for file in response.result.output_files} == {"a", "b"}


async def test_act_14_output_paths_make_the_older_fields_void(target: Target) -> None:
    command = shell("echo 1 > a; echo 2 > b; mkdir c", output_paths=["a"], output_files=["b"], output_directories=["c"])
    result = (await execute(target, command)).result
    assert [file.path for file in result.output_files] == ["a"]
    assert not result.output_directories


async def test_act_15_the_older_output_fields_work(target: Target) -> None:
    command = shell("echo 1 > b; mkdir c; echo 2 > c/f", output_files=["b"], output_directories=["c"])
    response = await execute(target, command)
    assert await contents(target, response, "b") == b"1\n"
    (directory,) = response.result.output_directories
    assert (directory.path, await files_of(target, directory)) == ("c", {"f"})


async def test_act_16_a_path_may_be_in_both_older_fields(target: Target) -> None:
    command = shell("echo 1 > b; mkdir c; echo 2 > c/f", output_files=["b", "c"], output_directories=["b", "c"])
    result = (await execute(target, command)).result
    assert [file.path for file in result.output_files] == ["b"]
    assert [directory.path for directory in result.output_directories] == ["c"]


async def test_act_17_output_directories_may_hold_others(target: Target) -> None:
    text = "mkdir -p a/b; echo 1 > a/b/f; echo 2 > a/c"
    response = await execute(target, shell(text, output_files=["a/c"], output_directories=["a", "a/b"]))
    assert await contents(target, response, "a/c") == b"2\n"
    found = {one.path: await files_of(target, one) for one in response.result.output_directories}
    assert found == {"a": {"b/f", "c"}, "a/b": {"f"}}


async def test_act_18_the_whole_working_directory_may_be_an_output(target: Target) -> None:
    await is_all_of_it(target, shell("echo hello > new", working_directory="sub", output_directories=[""]))


async def test_act_19_the_whole_working_directory_may_be_an_output_path(target: Target) -> None:
    await is_all_of_it(target, shell("echo hello > new", working_directory="sub", output_paths=[""]))


@pytest.mark.parametrize("name", ["bogus", ""])
async def test_act_20_an_unknown_node_property_is_invalid(target: Target, name: str) -> None:
    await is_invalid(target, shell("true", output_node_properties=[name]))


async def test_act_21_node_properties_may_come_unsorted(target: Target) -> None:
    command = shell("echo 1 > out", output_paths=["out"], output_node_properties=["unix_mode", "mtime"])
    properties = output(await execute(target, command), "out").node_properties
    assert properties.HasField("mtime")
    assert properties.HasField("unix_mode")


@pytest.mark.parametrize("form", [0, 2, 77])
async def test_act_22_output_directories_come_as_trees(target: Target, form: int) -> None:
    command = shell("mkdir d; echo 1 > d/f", output_paths=["d"])
    command.MergeFromString(b"\x48" + bytes([form]))
    (directory,) = (await execute(target, command)).result.output_directories
    assert await files_of(target, directory) == {"f"}


async def test_act_23_unknown_fields_do_no_harm(target: Target) -> None:
    command = await target.put(shell("echo hello > out", output_paths=["out"]).SerializeToString() + UNKNOWN_FIELD)
    action = pb.Action(command_digest=command, input_root_digest=await tree(target, {}), salt=fresh(16))
    response = await run_action(target, await target.put(action.SerializeToString() + UNKNOWN_FIELD))
    assert await contents(target, response, "out") == b"hello\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"arguments": ["/bin/echo", "a\0b"]},
        {"environment_variables": [{"name": "A", "value": "a\0b"}]},
        {"output_paths": ["a\0b"]},
        {"working_directory": "a\0b"},
    ],
)
async def test_act_24_texts_with_nul_are_invalid(target: Target, fields: dict[str, Any]) -> None:
    await is_invalid(target, pb.Command(**{"arguments": ["/bin/true"], **fields}))


async def test_act_24_texts_that_are_not_utf_8_are_invalid(target: Target) -> None:
    command = await target.put(pb.Command(arguments=["/bin/echo"]).SerializeToString() + b"\x0a\x02\xff\xfe")
    action = pb.Action(command_digest=command, input_root_digest=await tree(target, {}))
    assert await code_of(target, await put(target, action)) == INVALID


async def is_invalid(target: Target, command: pb.Command, inputs: Mapping[str, bytes] | None = None) -> None:
    """Fail unless *command* is refused as invalid, by the call or in its response."""
    assert await code_of(target, await action_of(target, command, inputs)) == INVALID


async def is_all_of_it(target: Target, command: pb.Command) -> None:
    """Fail unless the working directory comes back with what was in it, and what came."""
    (directory,) = (await execute(target, command, {"sub/below/f": b"x"})).result.output_directories
    assert directory.path == ""
    assert await files_of(target, directory) == {"below/f", "new"}


async def environment_of(target: Target, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is given the variables *given*."""
    variables = [{"name": name, "value": value} for name, value in sorted(given.items())]
    command = pb.Command(
        arguments=["/bin/sh", "-c", "/usr/bin/env > out"], environment_variables=variables, output_paths=["out"]
    )
    said = (await contents(target, await execute(target, command), "out")).decode()
    return dict(line.split("=", 1) for line in said.splitlines())
