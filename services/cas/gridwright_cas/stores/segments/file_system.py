"""On what kind of file system a directory is: not all can be shared by processes."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
#: Several machines may write there, and none sees at once what another one has mapped or locked.
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "lustre", "glusterfs", "gfs2", "ocfs2"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs"}
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Fitness(Enum):
    """Whether an index and segments may be kept on a file system."""

    LOCAL = "local"
    #: Whoever has made it knows.
    UNKNOWN = "unknown"
    NETWORK = "network"


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the file system that *path* is on, as mount(8) calls it, or None if that cannot be known."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    resolved = path.resolve()
    found: tuple[int, str] | None = None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        try:
            mount_point = _ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields.split()[4])
            kind = rest.split()[0]
        except IndexError:
            continue
        # Of several mounts on one another the last one counts.
        if resolved.is_relative_to(mount_point) and (found is None or len(mount_point) >= found[0]):
            found = (len(mount_point), kind)
    return found[1] if found is not None else None


def fitness_of(kind: str | None) -> Fitness:
    """Return what is known of a type of file system."""
    if kind in _NETWORK:
        return Fitness.NETWORK
    if kind is None or kind == "virtiofs" or kind.split(".")[0] in ("fuse", "fuseblk"):
        return Fitness.UNKNOWN
    return Fitness.LOCAL
