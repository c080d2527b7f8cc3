"""Numbers as protobuf writes them before a field that has a length."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """Return *number*, 0 or more, seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
