"""Bazel 7.7.1, from a tree of clients: it takes part in "2.0 to 2.0" only, and sends `output_paths`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.bazel import Bazel, bazel_server, remote_cache, remote_execution
from tests.clients.builds import OpenBazel, build_twice, build_with_minimal_downloads, outlast_a_kill
from tests.clients.client_tree import ClientTree, find_client_tree
from tests.journeys.grid import SERVICE_NAMES, Grid

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(600),
    pytest.mark.may_skip("needs a tree of clients (/opt/sid, or GRIDWRIGHT_CLIENT_TREE)"),
]

#: Where Debian's package keeps what Bazel would fetch.
_OFFLINE = {
    "rules_cc": "rules/cc",
    "rules_java": "rules/java",
    "rules_java_builtin": "rules/java",
    "platforms": "tools/platforms",
    "bazel_skylib": "tools/skylib",
    "bazel_features": "tools/features",
    "rules_license": "rules/license",
    "rules_python": "rules/python",
    "rules_proto": "rules/proto",
}

_ZSTD = "usr/lib/*/libzstd-jni.so"


@pytest.fixture
def bazel7() -> OpenBazel:
    tree = find_client_tree(["bazel", "g++"])
    # Bazel looks for it beside itself, where Debian does not put it; without it, it cannot compress.
    zstd = [f"--host_jvm_args=-DZstdNativePath=/{path.relative_to(tree.path)}" for path in tree.path.glob(_ZSTD)]

    @contextmanager
    def open_bazel(workspace: Path, flags: Sequence[str]) -> Iterator[Bazel]:
        offline = [f"--override_repository={name}=/usr/share/bazel/{path}" for name, path in _OFFLINE.items()]
        all_flags = ["--noenable_bzlmod", "--enable_workspace", *offline, *flags]
        program = [*tree.entered_at(workspace), "bazel", *zstd]
        with bazel_server(workspace, flags=all_flags, program=program) as bazel:
            yield bazel

    return open_bazel


@pytest.mark.parametrize("compression", [[], ["--remote_cache_compression"]], ids=["plain", "compressed"])
@pytest.mark.parametrize("kind", ["remote", "local"])
def test_a_cpp_workspace_is_built_and_then_comes_from_the_cache(
    tree: ClientTree, tree_grid: Grid, bazel7: OpenBazel, directory: Path, kind: str, compression: Sequence[str]
) -> None:
    flags = remote_execution(tree_grid.remote) if kind == "remote" else remote_cache(tree_grid.remote)

    def run(binary: Path) -> str:
        return tree.run(directory, str(binary)).stdout

    build_twice(bazel7, directory, [*flags, *compression], first=kind, speak=run)


@pytest.mark.parametrize("compression", [[], ["--remote_cache_compression"]], ids=["plain", "compressed"])
def test_a_build_that_downloads_nothing_is_done_all_the_same(
    tree: ClientTree, tree_grid: Grid, bazel7: OpenBazel, directory: Path, compression: Sequence[str]
) -> None:
    def run(binary: Path) -> str:
        return tree.run(directory, str(binary)).stdout

    build_with_minimal_downloads(bazel7, directory, [*remote_execution(tree_grid.remote), *compression], speak=run)


@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_a_build_outlasts_the_death_of_a_service_or_says_why_not(
    tree_grid: Grid, bazel7: OpenBazel, directory: Path, service: str
) -> None:
    outlast_a_kill(bazel7, directory, remote_execution(tree_grid.remote), tree_grid, service)
