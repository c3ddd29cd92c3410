"""Files that are read again when they have changed: tokens, keys and certificates are exchanged without a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Final, Generic, TypeAlias, TypeVar

from runwire.errors import ConfigurationError

LOOK_SECONDS: Final = 0.5
MAX_BYTES: Final = 16 * 1024 * 1024
_Mark: TypeAlias = tuple[tuple[int, int, int], ...]

T = TypeVar("T")

logger = logging.getLogger("runwire.identity")


class WatchedFiles(Generic[T]):
    """What `parse` makes of the content of some files, by the state that they are in. Safe for several threads.

    Nobody waits for a timer: each question looks, at most every LOOK_SECONDS. A file that is gone, or half written, is
    said once and changes nothing: what was read last is in force until there is something better. `parse` raises
    ValueError for what it does not understand.
    """

    def __init__(self, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], T]) -> None:
        """Reads them. Raises ConfigurationError."""
        self._paths = paths
        self._parse = parse
        self._lock = Lock()
        self._problem = ""
        try:
            self._mark = self._seen()
            self._value = self._read()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot use {self.names}: {_said(error)}") from None
        self._looked = time.monotonic()

    @property
    def names(self) -> str:
        return ", ".join(map(str, self._paths))

    def get(self, *, look: bool = False) -> T:
        """What the files say now; `look`: without the pause, for a caller that misses something in them."""
        with self._lock:
            now = time.monotonic()
            if look or now - self._looked >= LOOK_SECONDS:
                self._looked = now
                self._look()
            return self._value

    def _look(self) -> None:
        try:
            mark = self._seen()
            if mark == self._mark and not self._problem:
                return
            self._value, self._mark = self._read(), mark
        except (OSError, ValueError) as error:
            if str(error) != self._problem:
                logger.error("%s stays as it was read last: %s", self.names, _said(error))
            self._problem = str(error)
            return
        self._problem = ""
        logger.info("read %s again", self.names)

    def _seen(self) -> _Mark:
        # By inode too: a file that is replaced within the same tick of the clock, with one as long, is another.
        found = [path.stat() for path in self._paths]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _read(self) -> T:
        contents = []
        for path in self._paths:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"{path} has more than {MAX_BYTES} bytes")
            contents.append(content)
        return self._parse(contents)


def _said(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
