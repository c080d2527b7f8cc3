"""Where a store may not be is known before anything is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.errors import ConfigurationError
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments import engine as engine_module
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
from gridwright_cas.stores.segments.file_system import Fitness, file_system_of, fitness_of

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /mnt rw - nfs4 server:/export rw,vers=4.2
31 30 0:27 / /mnt/local rw - xfs /dev/sdb rw
32 22 0:28 / /a\040place rw - cifs //server/share rw
33 22 0:29 / /twice rw - ext4 /dev/sdc rw
34 22 0:30 / /twice rw - fuse.sshfs host: rw
35 22 0:31 / /mntx rw master:3 - tmpfs tmpfs rw
a line of another kind
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/cas", "ext4"),
        ("/mnt", "nfs4"),
        ("/mnt/cas/store", "nfs4"),
        ("/mnt/local/cas", "xfs"),
        ("/a place/cas", "cifs"),
        ("/twice/cas", "fuse.sshfs"),
        ("/mntx/cas", "tmpfs"),
    ],
)
def test_the_innermost_mount_says_what_a_directory_is_on(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(path), mounts) == kind


def test_where_mounts_are_not_told_nothing_is_known(tmp_path: Path) -> None:
    assert file_system_of(Path("/data"), tmp_path / "none") is None
    assert file_system_of(tmp_path) is not None


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre"])
def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(engine_module, "file_system_of", lambda path: kind)
    with pytest.raises(ConfigurationError, match=f"network file system \\({kind}\\).* write a content_path"):
        Engine.open(tmp_path / "store", FakeClock(), SegmentSettings(EvictionPolicy(max_bytes=2**26)))
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "fitness"),
    [("ext4", Fitness.LOCAL), ("overlay", Fitness.LOCAL), ("fuse.mergerfs", Fitness.UNKNOWN), (None, Fitness.UNKNOWN)],
)
def test_others_are_told_apart(kind: str | None, fitness: Fitness) -> None:
    assert fitness_of(kind) is fitness
