"""Digests as people write them."""

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.digest_text import parse_digest


@pytest.mark.parametrize("function", DigestFunction)
def test_a_digest_that_was_printed_can_be_read(function: DigestFunction) -> None:
    digest = function.digest(b"a blob")
    assert parse_digest(f" {digest}\n") == digest
    assert parse_digest(f"{digest.hash}/6", function) == digest
    assert parse_digest(f"{function.name}/{digest.hash}/6") == digest


def test_sixty_four_digits_are_sha256_unless_told_otherwise() -> None:
    assert parse_digest("ab" * 32 + "/5") == Digest(DigestFunction.SHA256, "ab" * 32, 5)
    assert parse_digest("ab" * 32 + "/5", DigestFunction.BLAKE3).function is DigestFunction.BLAKE3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write HASH/SIZE"),
        ("ab" * 32, "write HASH/SIZE"),
        ("ab" * 32 + "/", "write HASH/SIZE"),
        ("ab" * 32 + "/-1", "write HASH/SIZE"),
        ("ab" * 32 + "/٣", "write HASH/SIZE"),
        ("abc/5", "no digest function has hashes of 3 digits"),
        ("AB" * 32 + "/5", "not lower-case hexadecimal"),
        ("sha1/" + "ab" * 32 + "/5", "a SHA1 hash has 40 characters, not 64"),
        ("ab" * 32 + f"/{2**63}", "out of range"),
    ],
)
def test_what_is_no_digest_is_explained(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_digest(text)
