"""Bytes and digests that tests send; nothing here is what the server under test computes with."""

from __future__ import annotations

import hashlib
import os

from blake3 import blake3

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

EMPTY_BLAKE3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#: The digest functions that tests can compute; those that a client may leave unnamed, and those that it must name.
INFERRED = ("SHA256", "SHA1", "MD5", "SHA384", "SHA512")
COMPUTABLE = (*INFERRED, "BLAKE3", "GITSHA1")


def fresh(size: int = 100) -> bytes:
    """Return *size* random bytes, which nobody has uploaded (for sizes of 8 and more)."""
    return os.urandom(size)


def hash_of(data: bytes, function: str = "SHA256") -> str:
    """Return the hash of *data* in hexadecimal; *function* is a name of REAPI's enum."""
    match function:
        case "BLAKE3":
            return blake3(data).hexdigest()
        case "GITSHA1":
            return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
        case _:
            return hashlib.new(function.lower(), data).hexdigest()


def digest_of(data: bytes, function: str = "SHA256") -> pb.Digest:
    """Return the digest of *data*; *function* is a name of REAPI's enum."""
    return pb.Digest(hash=hash_of(data, function), size_bytes=len(data))
