"""A store that fails when it is told to: the only fake of these tests, at our own seam."""

from __future__ import annotations

from typing import Any

from runwire.errors import StoreUnavailable

_CALLS = frozenset(
    {
        "acknowledge", "claim", "clear", "commit", "extend", "get", "heads", "now", "ping", "read", "receive", "scan",
        "sweep", "trim",
    }
)  # fmt: skip


class FaultyStore:
    """Does what `store` does, unless `down`: then every call raises StoreUnavailable."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.down = False

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if name not in _CALLS:
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                raise StoreUnavailable("the store is down", 2.0)
            return await attribute(*args, **kwargs)

        return call
