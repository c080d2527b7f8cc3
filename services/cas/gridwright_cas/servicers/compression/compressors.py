"""The compressors that are offered."""

from __future__ import annotations

from collections.abc import Mapping

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_cas.servicers.compression.brotli import BrotliDecoder, BrotliEncoder
from gridwright_cas.servicers.compression.codec import Compressor
from gridwright_cas.servicers.compression.deflate import DeflateDecoder, DeflateEncoder
from gridwright_cas.servicers.compression.zstd import ZstdDecoder, ZstdEncoder

_COMPRESSORS = (
    Compressor("zstd", pb.Compressor.ZSTD, ZstdDecoder, ZstdEncoder),
    Compressor("deflate", pb.Compressor.DEFLATE, DeflateDecoder, DeflateEncoder),
    Compressor("brotli", pb.Compressor.BROTLI, BrotliDecoder, BrotliEncoder),
)
#: By their names in a resource name.
BY_NAME: Mapping[str, Compressor] = {compressor.name: compressor for compressor in _COMPRESSORS}
#: By their numbers in a message.
BY_NUMBER: Mapping[int, Compressor] = {compressor.number: compressor for compressor in _COMPRESSORS}
