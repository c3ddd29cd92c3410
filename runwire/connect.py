"""The one place that knows every engine: a URL becomes a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import Final
from urllib.parse import SplitResult, urlsplit
from weakref import WeakValueDictionary

from runwire.errors import ConfigurationError
from runwire.memory import MemoryStore
from runwire.pubsub import Store

SUPPORTED: Final = (
    "memory://, memory://name, sqlite:///relative/file.db, sqlite:////absolute/file.db, "
    "redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or upstash://"
)

_shared: WeakValueDictionary[str, MemoryStore] = WeakValueDictionary()


def open_store(url: str) -> AbstractAsyncContextManager[Store]:
    """The store at `url`, open while the context is.

    - `memory://` is a store of its own; `memory://name` is shared by all who have that name open in this process.
    - `sqlite:///file` is relative to the working directory, `sqlite:////file` absolute. `?synchronous=full` also
      survives a power cut without losing the last commits, at the price of one disk flush a transaction.
    - `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`,
      `upstash://`: see runwire.redis.url.

    Raises ConfigurationError, here or on entering, if the URL is wrong or what it names cannot be used, with what to
    do about it; StoreUnavailable on entering if the store does not answer for now. No message holds a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(
            f"the store URL cannot be parsed ({_plain(error)}); supported are {SUPPORTED}"
        ) from None
    _check_port(parts)
    opener = _OPENERS.get(parts.scheme)
    if opener is None:
        what = f"unknown scheme {parts.scheme!r}" if parts.scheme else "no scheme"
        raise ConfigurationError(f"the store URL has {what}; supported are {SUPPORTED}")
    return opener(url, parts)


@contextmanager
def share_memory(name: str, store: MemoryStore) -> Iterator[None]:
    """Inside, `memory://name` is this store: for tests, which move its clock."""
    _shared[name] = store
    try:
        yield
    finally:
        del _shared[name]


def _check_port(parts: SplitResult) -> None:
    if "," in parts.netloc:  # several servers: their own engine looks at each
        return
    try:
        parts.port  # noqa: B018 - raises if it is no number
    except ValueError:
        raise ConfigurationError(
            "the port in the store URL is no number from 0 to 65535; if it is a piece of a password: `/`, `?` and `#` "
            "are written %2F, %3F and %23 there"
        ) from None


def _plain(error: ValueError) -> str:
    """The message of urlsplit without the part that it quotes from the URL, which may hold a password."""
    return str(error).split("'", 1)[0].strip().rstrip(":") or "malformed"


@asynccontextmanager
async def _open_memory(url: str, parts: SplitResult) -> AsyncIterator[Store]:
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError("memory:// takes a name at most, as in memory://name: no path, query or credentials")
    if not parts.netloc:
        yield MemoryStore()
        return
    store = _shared.setdefault(parts.netloc, MemoryStore())
    yield store


def _open_sqlite(url: str, parts: SplitResult) -> AbstractAsyncContextManager[Store]:
    from runwire.sqlite import open_sqlite

    return open_sqlite(url)


def _open_redis(url: str, parts: SplitResult) -> AbstractAsyncContextManager[Store]:
    if find_spec("hiredis") is None:
        raise ConfigurationError(
            f"{parts.scheme}:// needs the hiredis package, which is not installed: pip install 'runwire[redis]'"
        )
    from runwire.redis import open_redis

    return open_redis(url)


_OPENERS: Final[dict[str, Callable[[str, SplitResult], AbstractAsyncContextManager[Store]]]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "redis": _open_redis,
    "rediss": _open_redis,
    "unix": _open_redis,
    "redis+sentinel": _open_redis,
    "redis+cluster": _open_redis,
    "rediss+sentinel": _open_redis,
    "rediss+cluster": _open_redis,
    "upstash": _open_redis,
}
