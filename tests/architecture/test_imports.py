"""Imports point one way: `__main__ → app → servicers → heart → gridwright.{digest,errors,clock,blobs}`."""

from pathlib import Path

import pytest

from tests.architecture.imports import Rule, violations

REPOSITORY = Path(__file__).resolve().parents[2]

HEARTS = {
    "gridwright_actioncache": "gridwright_actioncache.results",
    "gridwright_cas": "gridwright_cas.stores",
    "gridwright_gateway": "gridwright_gateway.routing",
    "gridwright_scheduler": "gridwright_scheduler.queue",
    "gridwright_worker": "gridwright_worker.execution",
}
CLI = "gridwright_cli"
GRPC = ("grpc", "grpc_*")
# What a heart knows of the shared library: its words, the documents of the protocol, which are data, and their rules.
WORDS = (
    "gridwright.digest",
    "gridwright.errors",
    "gridwright.clock",
    "gridwright.company",
    "gridwright.direction",
    "gridwright.disk_errors",
    "gridwright.file_lock",
    "gridwright.lmdb_file",
    "gridwright.shared_calls",
    "gridwright.blobs",
)
DOCUMENTS = ("gridwright.protos.*_pb2", "gridwright.documents")

RULES = [
    Rule("the shared library knows no service", who=["gridwright"], never=[*HEARTS, CLI]),
    Rule("the command line starts services as processes", who=[CLI], never=HEARTS),
    Rule(
        "the testing kit is for tests",
        who=["gridwright", *HEARTS, CLI],
        never=["gridwright.testing"],
        except_for=["gridwright.testing"],
    ),
    Rule(
        "what hearts may import knows nothing of the wire",
        who=WORDS,
        never=[*GRPC, "gridwright.wire", "gridwright.protos"],
        except_for=["gridwright.blobs.remote"],
    ),
    Rule(
        "the rules of documents know words and documents",
        who=["gridwright.documents"],
        never=[*GRPC, "gridwright"],
        but=[*WORDS, *DOCUMENTS],
    ),
]
for service, heart in HEARTS.items():
    RULES += [
        Rule("no service imports another", who=[service], never=[*HEARTS, CLI], but=[service]),
        Rule("a heart has no transport in it", who=[heart], never=GRPC),
        Rule("a heart knows only words and documents", who=[heart], never=["gridwright"], but=[*WORDS, *DOCUMENTS]),
        Rule("a heart knows nothing of what is around it", who=[heart], never=[service], but=[heart]),
        Rule("servicers never touch gRPC", who=[f"{service}.servicers"], never=GRPC),
        Rule(
            "app.py composes the service, and only __main__.py calls it",
            who=[service],
            never=[f"{service}.app", f"{service}.__main__"],
            except_for=[f"{service}.__main__"],
        ),
        Rule("app.py is called, it does not call", who=[f"{service}.app"], never=[f"{service}.__main__"]),
    ]


def test_imports_point_one_way() -> None:
    roots = [REPOSITORY / "shared", REPOSITORY / "cli", *(REPOSITORY / "services").iterdir()]
    assert list(violations(roots, RULES)) == []


def test_the_rules_know_every_service() -> None:
    services = {f"gridwright_{directory.name}" for directory in (REPOSITORY / "services").iterdir()}
    assert services == set(HEARTS)


@pytest.mark.parametrize("service", HEARTS)
def test_a_service_that_has_an_app_has_its_heart(service: str) -> None:
    where = REPOSITORY / "services" / service.removeprefix("gridwright_")
    heart = where.joinpath(*HEARTS[service].split("."))
    assert heart.is_dir() or not (where / service / "app.py").exists()


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("gridwright.digest", "import grpc.aio"),
        ("gridwright.documents", "from gridwright.wire import digests"),
        ("gridwright.settings", "from gridwright_cas import config"),
        ("gridwright.wire.serving", "from gridwright.testing import FakeClock"),
        ("gridwright_cli.up", "import gridwright_gateway.routing"),
        ("gridwright_cas.config", "from gridwright_worker.config import Config"),
        ("gridwright_cas.servicers.cas", "from ..app import build_store"),
        ("gridwright_cas.servicers.cas", "import grpc"),
        ("gridwright_cas.stores", "from .. import app"),
        ("gridwright_cas.stores.disk", "from gridwright import wire"),
        ("gridwright_cas.stores.disk", "from gridwright_cas.servicers import cas"),
        ("gridwright_cas.stores.disk", "def later():\n    from gridwright.wire.digests import to_message"),
        ("gridwright_scheduler.queue.matching", "from grpc_health.v1 import health"),
        ("gridwright_worker.execution.outputs", "from gridwright.protos.a.v2 import execution_pb2_grpc"),
        ("gridwright_worker.execution.outputs", "import gridwright.settings"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, statement: str) -> None:
    write(tmp_path, module, statement)
    assert list(violations([tmp_path], RULES))


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("gridwright.blobs.remote", "from gridwright.wire import channels"),
        ("gridwright.testing.contracts", "from .clock import FakeClock\nfrom gridwright.testing import clock"),
        ("gridwright_cas.__main__", "from gridwright_cas.app import serve"),
        ("gridwright_cas.app", "import grpc\nfrom . import config, servicers, stores"),
        ("gridwright_cas.servicers.cas", "from gridwright.wire.digests import to_message"),
        ("gridwright_cas.stores.disk", "import lmdb\nfrom gridwright.digest import Digest\nfrom . import verified"),
        ("gridwright_cas.stores", "from .disk import DiskStore"),
        ("gridwright_worker.execution.outputs", "from gridwright.protos.a.v2 import execution_pb2"),
        ("gridwright_worker.execution.outputs", "from gridwright.documents import check_command"),
        ("gridwright.documents", "from gridwright.protos.a.v2 import execution_pb2"),
        ("gridwright_worker.execution.outputs", "from gridwright.protos.a.v2.execution_pb2 import Action"),
    ],
)
def test_an_import_in_the_right_direction_is_allowed(tmp_path: Path, module: str, statement: str) -> None:
    write(tmp_path, module, statement)
    assert list(violations([tmp_path], RULES)) == []


def write(root: Path, module: str, source: str) -> None:
    """Write *module*, as a package where a heart's or a service's top is meant."""
    parts = module.split(".")
    is_package = module in [*HEARTS, *HEARTS.values()]
    path = root.joinpath(*parts, "__init__.py") if is_package else root.joinpath(*parts).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
