"""Uploads that break off, are taken up, begin anew and are asked after, in any order, several at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test

from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.blobs import digest_of
from tests.conformance.compressors import compress
from tests.fuzz.cas_under_fire import ABORTED, INVALID, OK, CasUnderFire
from tests.fuzz.effort import effort

_MIB = 2**20
_MESSAGE_BYTES = 300_000


@dataclass
class Upload:
    """One upload as it must be: between *least* and *most* bytes of it are kept."""

    name: str
    blob: bytes
    #: Of the blob's bytes.
    compressor: str
    least: int = 0
    most: int = 0
    #: Whether a call was cut, so that the server may still be at it.
    cut: bool = False
    #: Whether the client sent something else than the blob.
    spoiled: bool = False
    done: bool = False


def requests(upload: Upload, offset: int, data: bytes, *, finish: bool) -> Iterator[bs.WriteRequest]:
    """Yield the messages that send *data*, compressed where the upload is."""
    if upload.compressor:
        data = compress(upload.compressor, data)
    name = upload.name
    for start in range(0, max(len(data), 1), _MESSAGE_BYTES):
        piece = data[start : start + _MESSAGE_BYTES]
        is_last = start + _MESSAGE_BYTES >= len(data)
        yield bs.WriteRequest(
            resource_name=name, write_offset=offset + start, data=piece, finish_write=finish and is_last
        )
        name = ""


class Uploading(RuleBasedStateMachine):
    """Clients that go about their uploads in ways that the protocol allows, or does not."""

    uploads = Bundle("uploads")
    parts = st.sampled_from([0, 1, 100, 5_000, _MIB, _MIB + 1, 3 * _MIB])

    def __init__(self, cas: CasUnderFire) -> None:
        super().__init__()
        self.cas = cas
        self.uuid = str(uuid.uuid4())
        self.all: list[Upload] = []

    @rule(
        target=uploads,
        size=st.sampled_from([20, 10_000, _MIB + 100, 2 * _MIB]),
        compressor=st.sampled_from(["", "", "zstd", "deflate"]),
        twin=st.booleans(),
    )
    def begin(self, size: int, compressor: str, twin: bool) -> Upload:
        """All of a run have one uuid; a twin is of the same blob as the one before it, but has a uuid of its own."""
        blob = self.cas.fresh(bytes(size))
        upload_id = self.uuid
        if twin and self.all:
            blob, upload_id = self.all[-1].blob, str(uuid.uuid4())
        digest = digest_of(blob)
        kind = f"compressed-blobs/{compressor}" if compressor else "blobs"
        name = f"main/uploads/{upload_id}/{kind}/{digest.hash}/{digest.size_bytes}"
        upload = Upload(name, blob, compressor.upper(), done=any(one.done for one in self.all if one.blob == blob))
        self.all.append(upload)
        return upload

    @rule(upload=uploads, part=parts)
    def send_some(self, upload: Upload, part: int) -> None:
        """The client goes on where the server says it is, and ends its side without finishing."""
        offset = self._ask(upload)
        data = upload.blob[offset : offset + part]
        if upload.compressor and not data:
            return
        answer = self.cas.write(list(requests(upload, offset, data, finish=False)))
        assert answer.code is OK, answer
        if not upload.done:
            self._now_has(upload, offset + len(data), answer.message.committed_size)

    @rule(upload=uploads, part=parts)
    def break_off(self, upload: Upload, part: int) -> None:
        """The client is cut off while it sends."""
        offset = self._ask(upload)
        data = upload.blob[offset : offset + part]
        if upload.compressor and not data:
            return
        self.cas.broken_off_write(list(requests(upload, offset, data, finish=False)))
        upload.cut = True
        upload.least, upload.most = (0 if offset == 0 else upload.least), max(upload.most, offset + len(data))

    @rule(upload=uploads, part=parts)
    def send_garbage(self, upload: Upload, part: int) -> None:
        """What comes is not the blob; that shows at the end, or at once where it is too much."""
        offset = self._ask(upload)
        if upload.done or upload.compressor:
            return
        garbage = b"!" * part
        answer = self.cas.write(list(requests(upload, offset, garbage, finish=False)))
        if offset + part > len(upload.blob):
            assert answer.code in (INVALID, ABORTED), answer
            self._is_gone_perhaps(upload)
        else:
            assert answer.code is OK, answer
            upload.spoiled = upload.spoiled or part > 0
            self._now_has(upload, offset + part, answer.message.committed_size)

    @rule(upload=uploads, slip=st.sampled_from([1, 1_000, 2**40]))
    def send_elsewhere(self, upload: Upload, slip: int) -> None:
        """A client that is mistaken about where it is is told so, and nothing is lost."""
        offset = self._ask(upload) + slip
        if upload.done or offset == 0:
            return
        answer = self.cas.write(list(requests(upload, offset, upload.blob, finish=True)))
        if upload.cut and answer.code is ABORTED:
            # There was more by then; what comes is too much, and with what is kept may be wrong.
            self._is_gone_perhaps(upload)
        else:
            assert answer.code is INVALID, answer

    @rule(upload=uploads)
    def finish(self, upload: Upload) -> None:
        offset = self._ask(upload)
        upload.spoiled = upload.spoiled and offset > 0
        self._end(upload, offset, upload.blob[offset:])

    @rule(upload=uploads)
    def begin_anew(self, upload: Upload) -> None:
        """At offset 0 the whole blob comes, whatever was there."""
        upload.spoiled = False
        self._end(upload, 0, upload.blob)

    @rule(upload=uploads)
    def look(self, upload: Upload) -> None:
        assert self.cas.is_missing(digest_of(upload.blob)) is not upload.done
        if upload.done:
            assert self.cas.read_blob(digest_of(upload.blob)) == upload.blob

    def _ask(self, upload: Upload) -> int:
        committed, complete = self.cas.committed(upload.name)
        assert complete is upload.done
        if complete:
            assert committed == len(upload.blob)
            return 0
        assert upload.least <= committed <= upload.most, (committed, upload.least, upload.most)
        return committed

    def _end(self, upload: Upload, offset: int, data: bytes) -> None:
        answer = self.cas.write(list(requests(upload, offset, data, finish=True)))
        # Of garbage that came while a cut call was still being heard, nothing may have been kept.
        is_whole = upload.cut and answer.code is OK
        if upload.spoiled and not upload.done and not is_whole:
            assert answer.code in (INVALID, ABORTED), answer
            self._is_gone_perhaps(upload)
            upload.spoiled = False
            return
        assert answer.code is OK, answer
        upload.spoiled = False
        for one in self.all:
            one.done = one.done or one.blob == upload.blob

    def _now_has(self, upload: Upload, sent: int, committed: int) -> None:
        if not upload.compressor:
            # Of two calls at once, one keeps what comes.
            assert committed == sent or (upload.cut and committed <= upload.most)
        upload.least = 0 if upload.cut else committed
        upload.most = max(committed, sent, upload.most if upload.cut else 0)

    def _is_gone_perhaps(self, upload: Upload) -> None:
        upload.least = 0
        upload.most = max(upload.most, len(upload.blob))

    def teardown(self) -> None:
        for upload in self.all:
            self.begin_anew(upload)
            assert self.cas.read_blob(digest_of(upload.blob)) == upload.blob


def test_whatever_happens_to_uploads_each_can_be_brought_to_its_end(each_cas: CasUnderFire) -> None:
    begin: Any = partial(Uploading, each_cas)
    run_state_machine_as_test(begin, settings=effort(share=0.2, steps=15))
