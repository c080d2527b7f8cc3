"""From the digest of an input root to all that it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.documents import check_node_names
from gridwright.errors import BlobNotFound, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.documents import digest_in, fetch_documents, parse

#: Directories nest no deeper than a path can be long (PATH_MAX 4,096, two bytes a level).
_MAX_DEPTH = 2048
#: Set-user-ID and the like are not for clients to hand out.
_MODE_BITS = 0o777


class InputFile(NamedTuple):
    """The content of a file and whether it can be executed: what files with one inode have in common."""

    digest: Digest
    is_executable: bool


class Properties(NamedTuple):
    """What a client wants of a node beyond its name and content; None: nothing."""

    mtime_ns: int | None
    mode: int | None


class FileEntry(NamedTuple):
    """A file in a folder."""

    name: str
    content: InputFile
    #: None in the common case, in which the file can share its inode with others.
    properties: Properties | None


class Symlink(NamedTuple):
    """A symbolic link in a folder."""

    name: str
    target: str
    mtime_ns: int | None


class Folder(NamedTuple):
    """A Directory document, checked: each name is one segment and occurs once (checklist DIR-01, DIR-02)."""

    files: tuple[FileEntry, ...]
    folders: tuple[tuple[str, Digest], ...]
    symlinks: tuple[Symlink, ...]
    properties: Properties | None

    @property
    def entries(self) -> int:
        return len(self.files) + len(self.folders) + len(self.symlinks)


@dataclass(frozen=True, slots=True)
class InputTree:
    """All folders of an input root, each distinct one once."""

    root: Digest
    folders: Mapping[Digest, Folder]
    #: Directories that the CAS does not hold: the tree is not whole, and cannot be staged.
    missing: frozenset[Digest]

    def files(self) -> set[InputFile]:
        """Return the distinct files of the tree."""
        return {file.content for folder in self.folders.values() for file in folder.files}

    def walk(self) -> Iterator[tuple[str, Folder]]:
        """Yield each folder with its path from the root ("" for the root), parents first."""
        ahead = [("", self.root)]
        while ahead:
            path, digest = ahead.pop()
            folder = self.folders[digest]
            yield path, folder
            ahead += [(f"{path}/{name}" if path else name, child) for name, child in folder.folders]


class TreeLoader:
    """Loads input trees, level by level, and remembers folders: most trees share most of theirs.

    Args:
        store: the CAS.
        max_entries: how many paths one tree may have; shared folders let a few documents
            describe exponentially many (checklist DIR-11).
        max_remembered: how many entries the remembered folders have together; some 300 bytes each.
    """

    def __init__(self, store: BlobStore, *, max_entries: int = 1_000_000, max_remembered: int = 200_000) -> None:
        self._store = store
        self._max_entries = max_entries
        self._max_remembered = max_remembered
        self._remembered: OrderedDict[Digest, Folder] = OrderedDict()
        self._remembered_entries = 0

    def __repr__(self) -> str:
        return f"<TreeLoader {len(self._remembered)} folders, {self._remembered_entries} entries>"

    async def load(self, root: Digest) -> InputTree:
        """Return the tree under *root*; what the CAS does not hold of it is named in ``missing``.

        Raises:
            InvalidRequest: a document is not a proper Directory, or the tree is too large or too deep.
        """
        folders: dict[Digest, Folder] = {}
        missing: set[Digest] = set()
        level = {root}
        depth = entries = 0
        while level:
            depth += 1
            if depth > _MAX_DEPTH:
                raise InvalidRequest(f"the input root nests more than {_MAX_DEPTH} directories")
            found = {digest: folder for digest in level if (folder := self._recall(digest))}
            if wanted := [digest for digest in level if digest not in found]:
                for digest, document in (await fetch_documents(self._store, wanted)).items():
                    if isinstance(document, BlobNotFound):
                        missing.add(digest)
                    else:
                        found[digest] = self._remember(digest, _read_folder(document, digest))
            folders |= found
            entries += sum(folder.entries + 1 for folder in found.values())
            self._check_size(entries)
            level = {child for folder in found.values() for _, child in folder.folders} - folders.keys() - missing
        if not missing:
            self._check_size(_count_paths(root, folders))
        return InputTree(root, folders, frozenset(missing))

    def _check_size(self, entries: int) -> None:
        if entries > self._max_entries:
            raise InvalidRequest(f"the input root has more than {self._max_entries} entries")

    def _recall(self, digest: Digest) -> Folder | None:
        folder = self._remembered.get(digest)
        if folder is not None:
            self._remembered.move_to_end(digest)
        return folder

    def _remember(self, digest: Digest, folder: Folder) -> Folder:
        if digest not in self._remembered:
            self._remembered[digest] = folder
            self._remembered_entries += folder.entries + 1
            while self._remembered_entries > self._max_remembered:
                _, forgotten = self._remembered.popitem(last=False)
                self._remembered_entries -= forgotten.entries + 1
        return folder


def _count_paths(root: Digest, folders: Mapping[Digest, Folder]) -> int:
    """Return how many paths the tree has when shared folders are written out."""
    counts: dict[Digest, int] = {}
    ahead = [root]
    while ahead:
        digest = ahead[-1]
        folder = folders[digest]
        if unknown := [child for _, child in folder.folders if child not in counts]:
            ahead += unknown
        else:
            counts[digest] = folder.entries + sum(counts[child] for _, child in folder.folders)
            ahead.pop()
    return counts[root]


def _read_folder(document: bytes, digest: Digest) -> Folder:
    message = parse(pb.Directory, document, digest)
    function = digest.function
    folder = Folder(
        files=tuple(
            FileEntry(
                node.name,
                InputFile(digest_in(node.digest, function, f"file {node.name!r}"), node.is_executable),
                _read_properties(node),
            )
            for node in message.files
        ),
        folders=tuple(
            (node.name, digest_in(node.digest, function, f"directory {node.name!r}")) for node in message.directories
        ),
        symlinks=tuple(_read_symlink(node) for node in message.symlinks),
        properties=_read_properties(message),
    )
    check_node_names([entry[0] for kind in (folder.files, folder.folders, folder.symlinks) for entry in kind], digest)
    return folder


def _read_symlink(node: pb.SymlinkNode) -> Symlink:
    if not node.target or "\0" in node.target:
        raise InvalidRequest(f"symlink {node.name!r} has the target {node.target!r}")
    properties = _read_properties(node)
    return Symlink(node.name, node.target, properties.mtime_ns if properties else None)


def _read_properties(node: pb.FileNode | pb.SymlinkNode | pb.Directory) -> Properties | None:
    """Return what is supported of a node's properties; others mean nothing here (checklist NOD-02 to NOD-04)."""
    if not node.HasField("node_properties"):
        return None
    sent = node.node_properties
    mtime_ns = sent.mtime.ToNanoseconds() if sent.HasField("mtime") else None
    mode = sent.unix_mode.value & _MODE_BITS if sent.HasField("unix_mode") else None
    return None if mtime_ns is None and mode is None else Properties(mtime_ns, mode)
