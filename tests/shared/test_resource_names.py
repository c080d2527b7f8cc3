"""Every row of the conformance checklist's table of ByteStream resource names, under its id."""

from __future__ import annotations

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidResourceName, UnknownInstance
from gridwright.instances import Instances, InstanceSettings
from gridwright.wire.resource_names import BlobName, parse_read_name, parse_write_name, read_name, write_name

F = DigestFunction
INSTANCES = Instances([InstanceSettings(name=name) for name in ("main", "a/b", "a/b/c")] + [InstanceSettings(name="")])
U = "5e2a4f86-3f1c-4b0e-9d6e-0c1d2e3f4a5b"
V = "00000000-0000-4000-8000-000000000000"
HEX = "0123456789abcdef" * 9
H = {length: HEX[:length] for length in (32, 40, 63, 64, 66, 96, 128)}
N = 42

WRITES = [
    ("N1", f"uploads/{U}/blobs/{H[64]}/{N}", "", F.SHA256, "identity"),
    ("N2", f"main/uploads/{U}/blobs/{H[64]}/{N}", "main", F.SHA256, "identity"),
    ("N3", f"a/b/c/uploads/{U}/blobs/{H[64]}/{N}", "a/b/c", F.SHA256, "identity"),
    ("N4", f"main/uploads/{U}/blobs/{H[40]}/{N}", "main", F.SHA1, "identity"),
    ("N5", f"main/uploads/{U}/blobs/{H[32]}/{N}", "main", F.MD5, "identity"),
    ("N6", f"main/uploads/{U}/blobs/{H[96]}/{N}", "main", F.SHA384, "identity"),
    ("N7", f"main/uploads/{U}/blobs/{H[128]}/{N}", "main", F.SHA512, "identity"),
    ("N9", f"main/uploads/{U}/blobs/blake3/{H[64]}/{N}", "main", F.BLAKE3, "identity"),
    ("N12", f"main/uploads/{U}/blobs/{H[64]}/{N}/src/foo bar/ü.cc", "main", F.SHA256, "identity"),
    ("N13", f"uploads/{U}/compressed-blobs/zstd/{H[64]}/{N}", "", F.SHA256, "zstd"),
    ("N14", f"a/b/uploads/{U}/compressed-blobs/deflate/{H[64]}/{N}", "a/b", F.SHA256, "deflate"),
    ("N15", f"a/b/uploads/{U}/compressed-blobs/brotli/{H[64]}/{N}/x", "a/b", F.SHA256, "brotli"),
    ("N16", f"a/b/uploads/{U}/compressed-blobs/zstd/blake3/{H[64]}/{N}", "a/b", F.BLAKE3, "zstd"),
    ("N22", f"a/b/uploads/{U}/blobs/{H[64]}/{N}/uploads/{V}/blobs/{H[64]}/{N}", "a/b", F.SHA256, "identity"),
    ("BSN-05", f"main/uploads/{U}/blobs/sha256/{H[64]}/{N}", "main", F.SHA256, "identity"),
    ("BSN-08", f"main/uploads/{U}/blobs/{H[64]}/{N}/", "main", F.SHA256, "identity"),
    ("BSN-12", f"main/uploads/foo/blobs/{H[64]}/{N}", "main", F.SHA256, "identity"),
]
READS = [
    ("N17", f"blobs/{H[64]}/{N}", "", F.SHA256, "identity"),
    ("N18", f"a/b/blobs/{H[64]}/{N}", "a/b", F.SHA256, "identity"),
    ("N19", f"a/b/blobs/blake3/{H[64]}/{N}", "a/b", F.BLAKE3, "identity"),
    ("N20", f"compressed-blobs/zstd/{H[64]}/{N}", "", F.SHA256, "zstd"),
    ("N21", f"a/b/compressed-blobs/zstd/blake3/{H[64]}/{N}", "a/b", F.BLAKE3, "zstd"),
    ("BSN-05", f"blobs/sha256/{H[64]}/{N}", "", F.SHA256, "identity"),
]
#: Digest functions that we do not have.
ABSENT = [
    ("N8", f"main/uploads/{U}/blobs/{H[66]}/{N}"),
    ("N10", f"main/uploads/{U}/blobs/sha256tree/{H[64]}/{N}"),
    ("N11", f"main/uploads/{U}/blobs/gitsha1/{H[40]}/{N}"),
]
#: Each is tried as it is, and with ``uploads/U/`` before ``blobs`` where it has none.
BAD = [
    ("X1", ""),
    ("X2", f"blobs/{H[64]}"),
    ("X3-negative", f"blobs/{H[64]}/-1"),
    ("X3-fraction", f"blobs/{H[64]}/1.0"),
    ("X3-hexadecimal", f"blobs/{H[64]}/0x10"),
    ("X3-plus", f"blobs/{H[64]}/+5"),
    ("X3-space", f"blobs/{H[64]}/ 5"),
    ("X3-underscore", f"blobs/{H[64]}/5_0"),
    ("X3-other-digits", f"blobs/{H[64]}/٥"),
    ("X3-nothing", f"blobs/{H[64]}/"),
    ("X4", f"blobs/{H[64]}/99999999999999999999"),
    ("X4-just", f"blobs/{H[64]}/{2**63}"),
    ("X5", f"blobs/{H[63]}/5"),
    ("X6", f"blobs/{H[64].upper()}/{N}"),
    ("X7", f"uploads/blobs/{H[64]}/{N}"),
    ("X8", f"uploads/{U}/{H[64]}/{N}"),
    ("X9", f"uploads/{U}/compressed-blobs/{H[64]}/{N}"),
    ("X10", f"uploads/{U}/compressed-blobs/identity/{H[64]}/{N}"),
    ("X11", f"uploads/{U}/compressed-blobs/ZSTD/{H[64]}/{N}"),
    ("X12", f"blobs/unknownfn/{H[64]}/{N}"),
    ("X13", f"blobs/blake3/{H[40]}/{N}"),
    ("X14-uploads", f"//uploads/{U}/blobs/{H[64]}/{N}"),
    ("X14-blobs", f"/blobs/{H[64]}/{N}"),
    ("BSN-05", f"blobs/sha1/{H[64]}/{N}"),
    ("BSN-06", f"compressed-blobs/lz4/{H[64]}/{N}"),
    ("not-hexadecimal", f"blobs/{'g' * 64}/{N}"),
    ("dots", f"blobs/../{H[64]}/{N}"),
]


@pytest.mark.parametrize(
    ("name", "instance", "function", "compressor"), [row[1:] for row in WRITES], ids=[row[0] for row in WRITES]
)
def test_a_name_to_write_by_is_understood(name: str, instance: str, function: F, compressor: str) -> None:
    upload_id = "foo" if "/foo/blobs" in name else U
    expected = BlobName(INSTANCES[instance], Digest(function, H[function.hash_length], N), compressor, upload_id)
    assert parse_write_name(name, INSTANCES) == expected


@pytest.mark.parametrize(
    ("name", "instance", "function", "compressor"), [row[1:] for row in READS], ids=[row[0] for row in READS]
)
def test_a_name_to_read_by_is_understood(name: str, instance: str, function: F, compressor: str) -> None:
    expected = BlobName(INSTANCES[instance], Digest(function, H[function.hash_length], N), compressor)
    assert parse_read_name(name, INSTANCES) == expected


@pytest.mark.parametrize("name", [row[1] for row in ABSENT], ids=[row[0] for row in ABSENT])
def test_a_digest_function_that_we_do_not_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidResourceName):
        parse_write_name(name, INSTANCES)


@pytest.mark.parametrize("name", [row[1] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises((InvalidResourceName, UnknownInstance)):
        parse_read_name(name, INSTANCES)
    with pytest.raises((InvalidResourceName, UnknownInstance)):
        parse_write_name(name, INSTANCES)
    if name.startswith(("blobs", "compressed-blobs")):
        with pytest.raises(InvalidResourceName):
            parse_write_name(f"main/uploads/{U}/{name}", INSTANCES)


def test_an_instance_that_is_not_served_is_named() -> None:
    with pytest.raises(UnknownInstance, match="'nope'"):
        parse_read_name(f"nope/blobs/{H[64]}/{N}", INSTANCES)


def test_the_empty_upload_id_is_none() -> None:
    with pytest.raises(InvalidResourceName):
        parse_write_name(f"main/uploads//blobs/{H[64]}/{N}", INSTANCES)


@pytest.mark.parametrize("function", list(F))
@pytest.mark.parametrize("instance", ["", "main", "a/b/c"])
def test_the_names_that_we_make_are_understood(function: F, instance: str) -> None:
    digest = function.digest(b"hello")
    assert parse_read_name(read_name(instance, digest), INSTANCES).digest == digest
    parsed = parse_write_name(write_name(instance, digest), INSTANCES)
    assert (parsed.instance, parsed.digest) == (INSTANCES[instance], digest)
    assert write_name(instance, digest) != write_name(instance, digest)


def test_bsn_10_what_old_clients_add_to_a_name_to_read_by_is_ignored() -> None:
    assert parse_read_name(f"blobs/{H[64]}/{N}/main.o", INSTANCES) == parse_read_name(f"blobs/{H[64]}/{N}", INSTANCES)
