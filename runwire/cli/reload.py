"""Notices that code has changed, by looking at it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 0.5
_MAX_FILES: Final = 20_000
_NOT_OURS: Final = frozenset({"node_modules", "site-packages", "__pycache__", "venv", "env", "build", "dist"})


class SourceWatch:
    """The Python files below a folder, but those of environments, packages and hidden folders; at most 20,000."""

    def __init__(self, folder: Path, look_seconds: float = _LOOK_SECONDS) -> None:
        self._folder = folder
        self._look_seconds = look_seconds
        self._seen = self._look()

    async def changed(self) -> str:
        """Returns the path of a file that has changed, come or gone since the last time, once all of them rest."""
        while True:
            await asyncio.sleep(self._look_seconds)
            now = await asyncio.to_thread(self._look)
            if now == self._seen:
                continue
            await asyncio.sleep(self._look_seconds)
            settled = await asyncio.to_thread(self._look)
            if settled != now:
                continue  # an editor, or a branch that is checked out, is still writing
            before, self._seen = self._seen, settled
            different = before.items() ^ settled.items()
            if different:
                return min(different)[0]

    def _look(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for folder, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_OURS)
            for name in sorted(files):
                if name.endswith(".py") and len(found) < _MAX_FILES:
                    path = os.path.join(folder, name)
                    try:
                        stat = os.stat(path)
                    except OSError:
                        continue  # it went in this moment
                    found[path] = (stat.st_mtime_ns, stat.st_size)
            if len(found) >= _MAX_FILES:
                break
        return found
