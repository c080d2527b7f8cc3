"""Reads what an Execute call names, an Action and its Command, and what these name in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from gridwright.blobs.store import BlobStore, read_blob
from gridwright.digest import Digest
from gridwright.documents import check_node_names
from gridwright.errors import BlobNotFound, GridwrightError, InvalidRequest, MissingBlobs, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import child_digest
from gridwright_scheduler.queue.names import ActionKey

#: An Action holds two digests and a few properties. It is stored with every row of the queue, and the answers to a
#: worker hold those of many leases.
_MAX_ACTION_BYTES = 64 * 1024
#: A Command may hold the arguments of a linker; no larger message could be received either.
_MAX_COMMAND_BYTES = 16 * 1024 * 1024
#: Directories read per question while an input tree is walked.
_DIRECTORIES_PER_READ = 1_000
#: More files and directories than any input tree that could be fetched.
_MAX_TREE_NODES = 2_000_000


@dataclass(frozen=True, slots=True)
class ActionDocument:
    """An Action as the client wrote it."""

    #: The client's bytes.
    data: bytes
    action: pb.Action
    command_digest: Digest
    input_root_digest: Digest


class Documents:
    """Reads documents from the CAS.

    Args:
        stores: the CAS of each instance, by its name.
        walk_seconds: how long the walk through an input tree may take.
    """

    def __init__(self, stores: Mapping[str, BlobStore], *, walk_seconds: float = 60.0) -> None:
        self._stores = stores
        self._walk_seconds = walk_seconds

    async def action(self, key: ActionKey) -> ActionDocument:
        """Return the Action *key*.

        Raises:
            MissingBlobs: it is not in the CAS (checklist EXE-13).
            InvalidRequest: it is no Action, or names no documents (EXE-14, ACT-01, ACT-02).
        """
        digest = key.digest
        if digest.size_bytes > _MAX_ACTION_BYTES:
            raise InvalidRequest(
                f"action {digest} is larger than the {_MAX_ACTION_BYTES} bytes that are allowed; "
                "large arguments and environments belong in its Command, data in its inputs",
                field="action_digest",
            )
        try:
            data = await read_blob(self._stores[key.instance], digest)
        except BlobNotFound:
            raise MissingBlobs([digest], "actions") from None
        return parse_action(digest, data)

    async def command(self, key: ActionKey, digest: Digest) -> pb.Command | None:
        """Return the Command *digest* of an action of the instance; None if it is not in the CAS.

        Raises:
            InvalidRequest: it is no Command (checklist ACT-03).
        """
        if digest.size_bytes > _MAX_COMMAND_BYTES:
            raise InvalidRequest(f"command {digest} is larger than the {_MAX_COMMAND_BYTES} bytes that are allowed")
        try:
            data = await read_blob(self._stores[key.instance], digest)
        except BlobNotFound:
            return None
        try:
            return pb.Command.FromString(data)
        except DecodeError:
            raise InvalidRequest(f"blob {digest} is not a Command", field="action.command_digest") from None

    async def missing_inputs(self, key: ActionKey, document: ActionDocument) -> set[Digest]:
        """Return all that the action needs and the CAS does not hold, in one walk (checklist ERR-04).

        Raises:
            InvalidRequest: nothing is missing, and what is there is no input tree (DIR-01, DIR-02, DIR-10, ERR-03).
            Unavailable: the walk took too long, or the CAS cannot answer.
        """
        store = self._stores.get(key.instance)
        if store is None:
            # Of a scheduler with newer settings, which died.
            raise Unavailable(f"this scheduler does not know instance {key.instance!r}")
        try:
            async with asyncio.timeout(self._walk_seconds):
                return await self._walk(store, document)
        except TimeoutError:
            raise Unavailable(f"the walk through input tree {document.input_root_digest} took too long") from None

    async def _walk(self, store: BlobStore, document: ActionDocument) -> set[Digest]:
        needed = {document.command_digest}
        missing: set[Digest] = set()
        faults: list[InvalidRequest] = []
        seen = {document.input_root_digest}
        level = [document.input_root_digest]
        while level:
            batch, level = level[:_DIRECTORIES_PER_READ], level[_DIRECTORIES_PER_READ:]
            for digest, found in (await store.get_many(batch)).items():
                if isinstance(found, BlobNotFound):
                    missing.add(digest)
                elif isinstance(found, GridwrightError):
                    raise found
                else:
                    try:
                        files, directories = _children(digest, found)
                    except InvalidRequest as error:
                        faults.append(error)
                        continue
                    needed.update(files)
                    fresh = directories - seen
                    seen |= fresh
                    level.extend(fresh)
            if len(needed) + len(seen) > _MAX_TREE_NODES:
                raise InvalidRequest(f"input tree {document.input_root_digest} has more than {_MAX_TREE_NODES} nodes")
        missing |= await store.missing(needed)
        if faults and not missing:  # never both: clients upload again only if every violation is MISSING (ERR-03)
            raise faults[0]
        return missing


def parse_action(digest: Digest, data: bytes) -> ActionDocument:
    """Return the Action that *data* is.

    Raises:
        InvalidRequest: it is none, or names no documents (checklist EXE-14, ACT-01, ACT-02).
    """
    try:
        action = pb.Action.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"blob {digest} is not an Action", field="action_digest") from None
    return ActionDocument(
        data,
        action,
        child_digest(action.command_digest, digest, field="action.command_digest"),
        child_digest(action.input_root_digest, digest, field="action.input_root_digest"),
    )


def _children(digest: Digest, data: bytes) -> tuple[set[Digest], set[Digest]]:
    try:
        directory = pb.Directory.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"blob {digest} is not a Directory", field="action.input_root_digest") from None
    check_node_names(
        [node.name for kind in (directory.files, directory.directories, directory.symlinks) for node in kind], digest
    )
    files = {child_digest(node.digest, digest, field="directory.files.digest") for node in directory.files}
    directories = {
        child_digest(node.digest, digest, field="directory.directories.digest") for node in directory.directories
    }
    return files, directories
