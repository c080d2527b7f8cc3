from gridwright.digest import DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_cli.execute.action import Wish, describe

ROOT = DigestFunction.SHA256.empty


def test_a_wish_becomes_an_action_and_a_command() -> None:
    wish = Wish(["cc", "-c"], ["b", "a"], {"Z": "1", "A": "2"}, [("OSFamily", "linux"), ("ISA", "x86-64")], 1.5)
    digest, blobs = describe(wish, ROOT)

    action = pb.Action.FromString(blobs[digest])
    [command] = [pb.Command.FromString(blob) for key, blob in blobs.items() if key != digest]
    assert action.command_digest.hash in {key.hash for key in blobs}
    assert action.input_root_digest.hash == ROOT.hash
    assert action.timeout.ToMilliseconds() == 1500
    assert list(command.arguments) == ["cc", "-c"]
    assert list(command.output_paths) == ["a", "b"]
    assert [(one.name, one.value) for one in command.environment_variables] == [("A", "2"), ("Z", "1")]
    assert [one.name for one in command.platform.properties] == ["ISA", "OSFamily"]
    assert action.platform == command.platform


def test_equal_wishes_are_one_action() -> None:
    one = Wish(["true"], ["a", "b"], {"X": "1", "Y": "2"}, [("p", "1"), ("p", "2")])
    two = Wish(["true"], ["b", "a"], {"Y": "2", "X": "1"}, [("p", "2"), ("p", "1")])
    assert describe(one, ROOT) == describe(two, ROOT)


def test_no_timeout_is_none_and_not_zero() -> None:
    digest, blobs = describe(Wish(["true"]), ROOT)
    assert not pb.Action.FromString(blobs[digest]).HasField("timeout")
