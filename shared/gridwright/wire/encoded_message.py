"""Messages that travel as the bytes that they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from google.protobuf.message import Message

from gridwright.wire.rpc import Method


class EncodedMessage(Message):
    """A message that is never decoded, whatever its type is.

    Protobuf keeps fields that it does not know, but writes all of them in an order of its own
    and numbers in as few bytes as they take. Whoever passes on what others will hash or
    compare must not have it written anew.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"<EncodedMessage of {len(self.data)} bytes>"

    def SerializeToString(self, **kwargs: Any) -> bytes:  # named as protobuf names it
        return self.data

    @classmethod
    def FromString(cls, s: bytes) -> Self:
        return cls(s)


def encoded(method: Method[Any, Any]) -> Method[EncodedMessage, EncodedMessage]:
    """Return *method* as it is called with bytes and answered with bytes."""
    return replace(method, request=EncodedMessage, response=EncodedMessage)
