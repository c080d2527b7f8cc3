"""The generated package ``gridwright.protos``: whole, importable, canonical on the wire, in step with its sources."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message

import gridwright.protos
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    FIND_MISSING_BLOBS,
    ActionCache,
    ContentAddressableStorage,
    ContentAddressableStorageClient,
)
from gridwright.protos.google.bytestream import bytestream_pb2
from gridwright.protos.google.bytestream.bytestream_rpc import WRITE, ByteStreamClient
from gridwright.wire.call import Call
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers, Req, Res, Service

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "shared" / "protos"

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gridwright.protos.__path__, "gridwright.protos.")
    if not module.ispkg
)
MESSAGES = [name for name in MODULES if name.endswith("_pb2")]
RPCS = [name for name in MODULES if name.endswith("_rpc")]


def services_of(module: ModuleType) -> list[Service]:
    return [thing.service for thing in vars(module).values() if inspect.isclass(thing) and hasattr(thing, "service")]


SERVICES = [(name, service) for name in RPCS for service in services_of(importlib.import_module(name))]
METHODS = [
    pytest.param(name, service, method, id=method.path) for name, service in SERVICES for method in service.methods
]


def test_the_committed_modules_are_what_the_generator_makes_of_the_sources() -> None:
    answer = subprocess.run([sys.executable, SOURCES / "generate.py", "--check"], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_every_module_can_be_imported_where_a_package_named_build_is_installed(tmp_path: Path) -> None:
    """PyPA's ``build`` takes the name that protoc would have given us."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "__init__.py").write_text("")
    script = "import build, importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    path = os.pathsep.join([str(tmp_path), str(ROOT / "shared")])
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *MODULES],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (answer.returncode, answer.stderr) == (0, "")


def test_google_stays_a_namespace_that_others_share() -> None:
    import google

    assert getattr(google, "__file__", None) is None
    assert not (ROOT / "shared" / "google").exists()


@pytest.mark.parametrize("name", MESSAGES)
def test_the_descriptor_of_a_module_has_the_name_of_its_source(name: str) -> None:
    descriptor: FileDescriptor = importlib.import_module(name).DESCRIPTOR
    canonical = name.removeprefix("gridwright.protos.").removesuffix("_pb2").replace(".", "/") + ".proto"
    assert descriptor.name == canonical
    assert (SOURCES / canonical).is_file()
    assert descriptor.package.replace(".", "/") == canonical.rpartition("/")[0]


def test_every_source_has_a_module() -> None:
    sources = {path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.proto")}
    assert {importlib.import_module(name).DESCRIPTOR.name for name in MESSAGES} == sources


def test_a_message_survives_pickling() -> None:
    digest = pb.Digest(hash="ab", size_bytes=1)
    assert pickle.loads(pickle.dumps(digest)) == digest


def test_every_service_of_the_sources_has_its_classes() -> None:
    described = {
        service.full_name
        for name in MESSAGES
        for service in importlib.import_module(name).DESCRIPTOR.services_by_name.values()
    }
    assert {service.full_name for _, service in SERVICES} == described | {"google.longrunning.Operations"}


@pytest.mark.parametrize(("module_name", "service"), [pytest.param(*pair, id=pair[1].full_name) for pair in SERVICES])
def test_a_service_lists_the_methods_of_its_descriptor_in_order(module_name: str, service: Service) -> None:
    descriptor = descriptor_pool.Default().FindServiceByName(service.full_name)
    assert [m.path for m in service.methods] == [f"/{service.full_name}/{m.name}" for m in descriptor.methods]


@pytest.mark.parametrize(("module_name", "service", "method"), METHODS)
def test_a_method_has_the_shape_that_its_descriptor_says(
    module_name: str, service: Service, method: Method[Any, Any]
) -> None:
    described: MethodDescriptor = descriptor_pool.Default().FindMethodByName(method.path[1:].replace("/", "."))
    assert method.request.DESCRIPTOR is described.input_type
    assert method.response.DESCRIPTOR is described.output_type
    assert (method.client_streaming, method.server_streaming) == (
        described.client_streaming,
        described.server_streaming,
    )

    name = service.full_name.rpartition(".")[2]
    module = importlib.import_module(module_name)
    for owner in (getattr(module, name), getattr(module, f"{name}Client")):
        function = getattr(owner, method.name)
        # Awaited when it answers once; called for an iterator when it streams.
        assert inspect.iscoroutinefunction(function) is not method.server_streaming
        assert list(inspect.signature(function).parameters)[1] == ("requests" if method.client_streaming else "request")


def test_a_servicer_that_forgot_an_rpc_cannot_be_made() -> None:
    class Forgetful(ActionCache):
        async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
            return pb.ActionResult()

    with pytest.raises(TypeError, match="update_action_result"):
        Forgetful()  # type: ignore[abstract]  # the same mistake, as mypy tells it


class Recorder(Channel):
    """Notes what it is asked to carry, and answers with empty messages."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Method[Any, Any], list[Message], float | None, Metadata]] = []

    async def unary_unary(
        self,
        method: Method[Req, Res],
        request: Req,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Res:
        self.calls.append(("unary_unary", method, [request], timeout, metadata))
        if on_trailers:
            on_trailers([("trailer", "seen")])
        return method.response()

    async def unary_stream(
        self, method: Method[Req, Res], request: Req, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Res]:
        self.calls.append(("unary_stream", method, [request], timeout, metadata))
        yield method.response()

    async def stream_unary(
        self,
        method: Method[Req, Res],
        requests: AsyncIterable[Req],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Res:
        self.calls.append(("stream_unary", method, [request async for request in requests], timeout, metadata))
        if on_trailers:
            on_trailers([("trailer", "seen")])
        return method.response()

    async def stream_stream(
        self, method: Method[Req, Res], requests: AsyncIterable[Req], *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Res]:
        self.calls.append(("stream_stream", method, [request async for request in requests], timeout, metadata))
        yield method.response()


async def test_a_client_hands_its_arguments_to_the_channel() -> None:
    channel = Recorder()
    trailers: list[Metadata] = []
    request = pb.FindMissingBlobsRequest(instance_name="main")
    response = await ContentAddressableStorageClient(channel).find_missing_blobs(
        request, timeout=1.5, metadata=[("k", "v")], on_trailers=trailers.append
    )
    assert response == pb.FindMissingBlobsResponse()
    assert channel.calls == [("unary_unary", FIND_MISSING_BLOBS, [request], 1.5, [("k", "v")])]
    assert trailers == [[("trailer", "seen")]]


async def test_a_client_streams_what_it_is_given() -> None:
    async def chunks() -> AsyncIterator[bytestream_pb2.WriteRequest]:
        for request in requests:
            yield request

    channel = Recorder()
    requests: Sequence[bytestream_pb2.WriteRequest] = [bytestream_pb2.WriteRequest(data=data) for data in (b"a", b"b")]
    await ByteStreamClient(channel).write(chunks(), timeout=None)
    assert channel.calls == [("stream_unary", WRITE, requests, None, ())]


@pytest.mark.parametrize(("module_name", "service", "method"), METHODS)
async def test_every_client_method_calls_its_own_method_in_the_right_way(
    module_name: str, service: Service, method: Method[Any, Any]
) -> None:
    async def requests() -> AsyncIterator[Message]:
        yield method.request()

    channel = Recorder()
    client = getattr(importlib.import_module(module_name), service.full_name.rpartition(".")[2] + "Client")(channel)
    function = getattr(client, method.name)
    argument = requests() if method.client_streaming else method.request()
    if method.server_streaming:
        responses = [response async for response in function(argument, timeout=2, metadata=[("k", "v")])]
    else:
        responses = [await function(argument, timeout=2, metadata=[("k", "v")])]
    assert responses == [method.response()]
    sides = "_".join("stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming))
    assert channel.calls == [(sides, method, [method.request()], 2, [("k", "v")])]


def test_the_foreign_messages_of_operations_are_the_only_ones_in_the_process() -> None:
    """Two copies of one message would not mix: Execute must speak of the Operation that others import."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName("google.longrunning.Operation")
    assert operations_pb2.Operation.DESCRIPTOR is descriptor
    execute = pb.DESCRIPTOR.services_by_name["Execution"].methods_by_name["Execute"]
    assert execute.output_type is descriptor


def test_a_service_names_itself_canonically() -> None:
    assert ContentAddressableStorage.service.full_name == "build.bazel.remote.execution.v2.ContentAddressableStorage"
