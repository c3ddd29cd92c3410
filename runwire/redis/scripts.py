"""The Lua scripts of the Redis engine: one for each thing that must be atomic. See lua/head.lua first."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final

from runwire.pubsub import MAX_GRACE_SECONDS, SUSPECT_LOSSES
from runwire.redis.records import microseconds

_CONSTANTS: Final = f"local SUSPECT_LOSSES, MAX_GRACE = {SUSPECT_LOSSES}, {microseconds(MAX_GRACE_SECONDS)}\n"


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server gets it."""

    text: str
    sha: str
    """The name under which the server keeps it, once it has seen it."""


def _load(name: str) -> Script:
    folder = files("runwire.redis") / "lua"
    text = _CONSTANTS + (folder / "head.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


COMMIT: Final = _load("commit")
APPEND: Final = _load("append")
READ: Final = _load("read")
HEADS: Final = _load("heads")
GET: Final = _load("get")
SCAN: Final = _load("scan")
LISTED: Final = _load("listed")
DUE: Final = _load("due")
QUEUED: Final = _load("queued")
CLAIM: Final = _load("claim")
DEPTHS: Final = _load("depths")
PUT_UP: Final = _load("put_up")
NOTICES: Final = _load("notices")
EXTEND: Final = _load("extend")
TRIM: Final = _load("trim")
CLEAR: Final = _load("clear")
SWEEP: Final = _load("sweep")
RECEIVE: Final = _load("receive")
ACKNOWLEDGE: Final = _load("acknowledge")
