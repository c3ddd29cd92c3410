"""Opaque cursors.

A cursor is a place in one run's log that a client may keep for as long as it likes: it says which log (epoch), where
(sequence), what the event there was (check) and whose it is (hash of the topic). It is no secret and grants nothing;
the checksum tells a damaged cursor from a wrong one, it does not protect it.

    version 1 byte | epoch 8 | sequence 8, big-endian | check 8 | topic hash 8 | CRC-32 of all before 4

in URL-safe base64 without padding: 50 characters.
"""

from __future__ import annotations

import base64
import binascii
import struct
from hashlib import blake2b

from runwire.errors import CursorMalformed, CursorMismatch
from runwire.pubsub import Position

_LAYOUT = struct.Struct(">B8sQ8s8s")
_CHECKSUM = struct.Struct(">I")
_VERSION = 1
_NO_CHECK = bytes(8)
MAX_CURSOR_LENGTH = 255


class CursorCodec:
    """Encodes and decodes the cursors of one topic."""

    __slots__ = ("topic",)

    def __init__(self, topic: str) -> None:
        self.topic = blake2b(topic.encode(), digest_size=8).digest()
        """Hash of the topic."""

    def encode(self, position: Position) -> str:
        """The cursor of a position."""
        check = position.check or _NO_CHECK
        data = _LAYOUT.pack(_VERSION, bytes.fromhex(position.epoch), position.sequence, check, self.topic)
        sealed = data + _CHECKSUM.pack(binascii.crc32(data))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def decode(self, cursor: str, *, field: str = "cursor") -> Position:
        """The position of a cursor.

        Raises CursorMalformed if these are not the characters of a cursor, CursorMismatch if it is one of another
        topic. `field` names the request's field in the error.
        """
        epoch, sequence, check, topic_hash = _unpack(cursor, field)
        if topic_hash != self.topic:
            raise CursorMismatch("the cursor belongs to another run")
        return Position(epoch.hex(), sequence, b"" if check == _NO_CHECK else check)


def _unpack(cursor: str, field: str) -> tuple[bytes, int, bytes, bytes]:
    if len(cursor) > MAX_CURSOR_LENGTH:
        raise CursorMalformed(f"longer than {MAX_CURSOR_LENGTH} characters", field)
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise CursorMalformed("not URL-safe base64", field) from None
    if sealed[:1] != bytes((_VERSION,)):
        raise CursorMalformed("unknown version", field)
    data, seal = sealed[: _LAYOUT.size], sealed[_LAYOUT.size :]
    if len(data) != _LAYOUT.size or len(seal) != _CHECKSUM.size:
        raise CursorMalformed("wrong length", field)
    if seal != _CHECKSUM.pack(binascii.crc32(data)):
        raise CursorMalformed("checksum differs", field)
    _, epoch, sequence, check, topic_hash = _LAYOUT.unpack(data)
    return epoch, sequence, check, topic_hash
