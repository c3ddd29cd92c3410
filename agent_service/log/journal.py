"""What a run has already done, kept in the run's store.

A journal entry is written in the same atomic step as the events that tell of it, and never changes. What is in it is
not done again, whatever process dies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent_service.log.writer import Changes, LogWriter
from runwire.errors import RunwireError

PREFIX: Final = "journal/"
FAILED: Final = "failed/"
"""Begins keys of what was tried and raised; a run that continues this one tries it again."""
MAX_ENTRY_BYTES: Final = 1024 * 1024


class JournalEntryTooLarge(RunwireError):
    """A result of more than MAX_ENTRY_BYTES bytes cannot be remembered. Store it elsewhere and return a reference."""

    reason = "JOURNAL_ENTRY_TOO_LARGE"


class Journal:
    """Entries by key, such as `step/fetch`."""

    def __init__(self, fields: Mapping[str, bytes], writer: LogWriter) -> None:
        self._entries = {name.removeprefix(PREFIX): data for name, data in fields.items() if name.startswith(PREFIX)}
        self._names = set(self._entries)
        self._writer = writer

    def get(self, key: str) -> bytes | None:
        """What was recorded, in this attempt or an earlier one."""
        return self._entries.get(key)

    def keys(self) -> list[str]:
        """In no order."""
        return list(self._entries)

    def fields(self) -> list[str]:
        """Names of the topic's fields that hold entries, or will once a write under way is done."""
        return [PREFIX + key for key in self._names]

    def put(self, key: str, data: bytes) -> dict[str, bytes]:
        """Remembers `data`; the fields that the caller writes."""
        self._names.add(key)
        self._entries[key] = data
        return {PREFIX + key: data}

    async def record(
        self,
        key: str,
        data: bytes,
        *,
        step: int = 0,
        progress: bool = True,
        keep: bool = True,
        also: Mapping[str, bytes] | None = None,
        **payload: Any,
    ) -> None:
        """Remembers `data`, in one atomic step with this event (and with all that was emitted before). Returns when
        it is stored. `progress`: whether it counts as getting further than the attempts that died before. `keep`:
        whether this attempt will ask for it again; otherwise only later ones have it, and this one's memory does not
        grow with what it has done. `also`: other fields to write with it.

        Raises JournalEntryTooLarge, and what LogWriter.write raises.
        """
        if len(data) > MAX_ENTRY_BYTES:
            raise JournalEntryTooLarge(
                f"the result of {key!r} has {len(data)} bytes, more than the {MAX_ENTRY_BYTES} that can be remembered: "
                "store it elsewhere and return a reference to it"
            )
        self._names.add(key)
        await self._writer.write(Changes(puts={PREFIX + key: data, **(also or {})}, progress=progress), step, **payload)
        if keep:
            self._entries[key] = data
