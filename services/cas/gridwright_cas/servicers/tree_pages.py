"""A directory tree as the pages of GetTree."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright_cas.stores.trees import FoundDirectory

#: What a Directory costs in a page beside its own bytes.
_OVERHEAD_BYTES = 8


async def tree_pages(
    found: AsyncIterator[FoundDirectory], page_size: int, page_token: str
) -> AsyncIterator[pb.GetTreeResponse]:
    """Yield *found* in messages that any client can receive, of *page_size* directories at most (0: any number).

    A page token is the number of directories before its page: the same tree is always walked
    in the same order, so a walk can go on at any replica (checklist GT-05).

    Raises:
        InvalidRequest: a negative page size, or a token that is none of ours (GT-08).
    """
    if page_size < 0:
        raise InvalidRequest("page_size must not be negative", field="page_size")
    skip = _read_token(page_token)
    count = 0
    page = pb.GetTreeResponse()
    used_bytes = 0
    async for digest, directory in found:
        count += 1
        if count <= skip:
            continue
        cost_bytes = digest.size_bytes + _OVERHEAD_BYTES
        full = len(page.directories) == page_size > 0 or used_bytes + cost_bytes > MAX_BATCH_BYTES
        if full and page.directories:
            page.next_page_token = str(count - 1)
            yield page
            page, used_bytes = pb.GetTreeResponse(), 0
        page.directories.append(directory)
        used_bytes += cost_bytes
    if count <= skip > 0:
        raise InvalidRequest(f"page_token {page_token!r} lies beyond the tree", field="page_token")
    yield page


def _read_token(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal()) or len(token) > 9:
        raise InvalidRequest(f"page_token {token[:40]!r} is none that GetTree gave", field="page_token")
    return int(token)
