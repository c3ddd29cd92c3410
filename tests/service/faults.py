"""A store that fails when it is told to: the only fake of these tests, at our own seam."""

from __future__ import annotations

from typing import Any

from runwire.errors import StoreUnavailable

_CALLS = frozenset(
    {
        "acknowledge", "claim", "clear", "commit", "depths", "extend", "get", "heads", "notices", "now", "ping",
        "put_up", "read", "receive", "scan", "sweep", "trim",
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


def failing_lookups(error: Exception) -> type[FaultyStore]:
    """A store in which looking up why a run was woken fails twice."""

    class FailingLookups(FaultyStore):
        failures = 0

        def __getattr__(self, name: str) -> Any:
            attribute = super().__getattr__(name)
            if name != "get":
                return attribute

            async def get(*args: Any, **kwargs: Any) -> Any:
                if len(args) > 1 and "cancel" in (args[1] or ()) and "run" not in args[1] and self.failures < 2:
                    self.failures += 1
                    raise error
                return await attribute(*args, **kwargs)

            return get

    return FailingLookups
