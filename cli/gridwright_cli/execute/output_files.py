"""Brings the outputs of an action into a directory of this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from google.protobuf.message import DecodeError

from gridwright.blobs.store import BlobStore, read_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, InternalError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import make_digest

#: Small files are asked for together, in requests of so many.
_BATCH = 500
_SMALL_BYTES = 64 * 1024


class UnusableOutput(Exception):
    """An output cannot be written here; the text names it."""


@dataclass(frozen=True, slots=True)
class _File:
    path: PurePosixPath
    digest: Digest
    executable: bool


@dataclass(frozen=True, slots=True)
class _Symlink:
    path: PurePosixPath
    target: str


@dataclass(frozen=True, slots=True)
class _Listing:
    """What an ActionResult holds, its Trees unfolded; paths are relative to the working directory."""

    directories: list[PurePosixPath]
    files: list[_File]
    symlinks: list[_Symlink]


def not_produced(wanted: Iterable[str], result: pb.ActionResult) -> list[str]:
    """Return those of *wanted* output paths that *result* does not hold."""
    produced = {
        PurePosixPath(output.path)
        for outputs in (
            result.output_files,
            result.output_directories,
            result.output_symlinks,
            result.output_file_symlinks,
            result.output_directory_symlinks,
        )
        for output in outputs
    }
    return [path for path in wanted if PurePosixPath(path) not in produced]


async def fetch_outputs(store: BlobStore, result: pb.ActionResult, function: DigestFunction, into: Path) -> int:
    """Write the outputs that *result* names below *into*; return how many files that were.

    Each file is checked against its digest and appears whole or not at all. Directories
    are merged into those that are there; symbolic links come last, so no file is ever
    written through one that the server sent.

    Raises:
        UnusableOutput: a path leads out of *into*, or cannot be written.
        BlobNotFound: an output has gone from the CAS.
        BlobCorrupted: its bytes are not those of its digest.
    """
    listing = await _list(store, result, function)
    try:
        for directory in listing.directories:
            (into / directory).mkdir(parents=True, exist_ok=True)
        for batch in _batches(listing.files):
            contents = await store.get_many({one.digest for one in batch if one.digest.size_bytes <= _SMALL_BYTES})
            for file in batch:
                data = contents.get(file.digest)
                if isinstance(data, Exception):
                    raise data
                await _write(into, file, store.get(file.digest) if data is None else _once(data))
        for link in listing.symlinks:
            path = into / link.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(link.target)
    except OSError as error:
        raise UnusableOutput(f"cannot write {error.filename or into}: {error.strerror}") from None
    return len(listing.files)


async def _list(store: BlobStore, result: pb.ActionResult, function: DigestFunction) -> _Listing:
    listing = _Listing([], [], [])
    for file in result.output_files:
        listing.files.append(_File(_inside(file.path), _digest(file.digest, function), file.is_executable))
    for links in (result.output_symlinks, result.output_file_symlinks, result.output_directory_symlinks):
        listing.symlinks.extend(_Symlink(_inside(link.path), link.target) for link in links)
    for output in result.output_directories:
        digest = _digest(output.tree_digest, function)
        try:
            tree = pb.Tree.FromString(await _checked(store, digest))
        except DecodeError:
            raise InternalError(f"the Tree {digest} of output {output.path} cannot be read") from None
        children = {function.digest(child.SerializeToString(deterministic=True)).hash: child for child in tree.children}
        _unfold(tree.root, _inside(output.path), children, function, listing)
    return listing


def _unfold(
    message: pb.Directory,
    path: PurePosixPath,
    children: dict[str, pb.Directory],
    function: DigestFunction,
    listing: _Listing,
) -> None:
    listing.directories.append(path)
    for file in message.files:
        listing.files.append(_File(path / _name(file.name), _digest(file.digest, function), file.is_executable))
    listing.symlinks.extend(_Symlink(path / _name(link.name), link.target) for link in message.symlinks)
    for node in message.directories:
        child = children.get(node.digest.hash)
        if child is None:
            raise InternalError(f"the Tree of output {path} lacks its directory {node.name}")
        _unfold(child, path / _name(node.name), children, function, listing)


async def _write(into: Path, file: _File, chunks: AsyncIterator[bytes]) -> None:
    """Write a draft beside it, check it on the way, then put it in its place."""
    target = into / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = file.digest.function.new()
    handle, draft = tempfile.mkstemp(prefix=f".{file.path.name[:100]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as writer:
            async for chunk in chunks:
                hasher.update(chunk)
                writer.write(chunk)
            size_bytes = writer.tell()
        if (hasher.hexdigest(), size_bytes) != (file.digest.hash, file.digest.size_bytes):
            raise BlobCorrupted(file.digest)
        os.chmod(draft, (0o777 if file.executable else 0o666) & ~_umask())
        os.replace(draft, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)


async def _checked(store: BlobStore, digest: Digest) -> bytes:
    data = await read_blob(store, digest)
    if digest.function.digest(data) != digest:
        raise BlobCorrupted(digest)
    return data


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _batches(files: list[_File]) -> Iterator[list[_File]]:
    for start in range(0, len(files), _BATCH):
        yield files[start : start + _BATCH]


def _inside(path: str) -> PurePosixPath:
    parsed = PurePosixPath(path)
    if parsed.is_absolute() or ".." in parsed.parts:
        raise UnusableOutput(f"the output {path!r} lies outside of this directory")
    return parsed


def _name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise UnusableOutput(f"an output directory holds the name {name!r}, which is none")
    return name


def _digest(message: pb.Digest, function: DigestFunction) -> Digest:
    return make_digest(function, message.hash, message.size_bytes, field="output")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
