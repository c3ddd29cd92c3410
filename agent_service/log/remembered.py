"""What the agent of a conversation remembers of earlier turns, as the store keeps it.

    remembered          where it begins and ends; see Remembered
    aside/history/<n>   what turn n left, stored once: Remembered as it was then, and the agent's own form
    aside/base/<n>      what stands for all turns before n, once the agent has compacted them

All but the first are set aside: a claim does not bring them, and a worker that has earlier turns in memory
(Recollections) reads those that it has not. What counts no more stays for a while, so that a fork can begin there.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, Self

from agent_service.log import record
from runwire.errors import EventsLost
from runwire.pubsub import ASIDE, Store

REMEMBERED: Final = "remembered"
"""See Remembered."""
MAX_PART_BYTES: Final = 1024 * 1024
"""Of what one turn leaves, and of what stands for many."""
MAX_HISTORY_BYTES: Final = 4 * 1024 * 1024
"""Of all that counts, whatever the agent allows itself: the oldest is forgotten beyond it."""
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of all parts in the store, those that count no more included."""
MAX_KEPT_TURNS: Final = 1000

_STATE: Final = struct.Struct(">QQ?Q8sQQQ")

Part = tuple[int, bytes]
"""A turn and what it left; 0 for the base."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What counts: the parts of the turns `first` to `last`, and before them the base, where there is one."""

    first: int = 1
    last: int = 0
    based: bool = False
    size_bytes: int = 0
    """Of what counts."""
    check: bytes = bytes(8)
    """Of what counts: a worker that has it in memory knows it by this."""
    kept: int = 1
    """The oldest turn whose part is in the store."""
    written_bytes: int = 0
    """Of all parts so far."""
    dropped_bytes: int = 0
    """Of those that are not in the store any more."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*_STATE.unpack_from(data))

    @staticmethod
    def size_of(data: bytes) -> int:
        """Of the agent's own form in the field of a part."""
        return len(data) - _STATE.size

    def pack(self) -> bytes:
        return _STATE.pack(
            self.first,
            self.last,
            self.based,
            self.size_bytes,
            self.check,
            self.kept,
            self.written_bytes,
            self.dropped_bytes,
        )

    def and_turn(self, turn: int, data: bytes) -> Remembered:
        """With what this turn left."""
        begins = {} if self.last else {"first": turn, "kept": turn}
        return replace(
            self,
            last=turn,
            size_bytes=self.size_bytes + len(data),
            check=_digest(self.check, data),
            written_bytes=self.written_bytes + len(data),
            **begins,  # type: ignore[arg-type]
        )

    def from_turn(self, first: int, size_bytes: int) -> Remembered:
        """Without the base and the parts before those of `first`, which leaves so much."""
        check = _digest(self.check, f"from {first}".encode())
        return replace(self, first=first, based=False, size_bytes=size_bytes, check=check)

    def compacted(self, data: bytes) -> Remembered:
        """With this in the place of all that counts."""
        return replace(self, first=self.last + 1, based=True, size_bytes=len(data), check=_digest(b"", data))

    @property
    def kept_bytes(self) -> int:
        """Of the parts in the store."""
        return self.written_bytes - self.dropped_bytes

    def fields(self) -> list[str]:
        """Those that hold what counts, oldest first."""
        parts = [history_field(turn) for turn in range(self.first, self.last + 1)]
        return [base_field(self.first), *parts] if self.based else parts


class Recollections:
    """What the worker has in memory of the conversations that it worked for, in at most so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._kept: OrderedDict[str, tuple[Remembered, Sequence[Part]]] = OrderedDict()

    def get(self, topic: str) -> tuple[Remembered, Sequence[Part]] | None:
        """As it was put the last time."""
        if topic in self._kept:
            self._kept.move_to_end(topic)
        return self._kept.get(topic)

    def put(self, topic: str, state: Remembered, parts: Sequence[Part]) -> None:
        """Keeps it in place of what was there; what was not asked for longest gives way."""
        self.drop(topic)
        self._kept[topic] = state, tuple(parts)
        self._size += state.size_bytes
        while self._size > self._max_bytes:
            oldest = next(iter(self._kept))
            self.drop(oldest)

    def drop(self, topic: str) -> None:
        """Forgets it."""
        state, _ = self._kept.pop(topic, (Remembered(), ()))
        self._size -= state.size_bytes


class Recollection:
    """What is remembered of one conversation, for one attempt. `load` comes first."""

    def __init__(self, topic: str, fields: Mapping[str, bytes], store: Store, known: Recollections | None) -> None:
        """`fields` are those of the claim."""
        self._topic = topic
        self._store = store
        self._known = known
        self.state = Remembered.unpack(fields[REMEMBERED]) if REMEMBERED in fields else Remembered()
        self.parts: list[Part] = []
        """Base and turns, oldest first, once they are loaded."""
        self._loaded = False
        self._before = self.state
        """As it was before the present turn was added."""

    async def load(self) -> None:
        """Reads what is not in memory. Raises StoreUnavailable, and EventsLost where something is not there."""
        known = self._known.get(self._topic) if self._known is not None else None
        if known is not None and self._continues(known[0]):
            parts = [*known[1], *await self._read(self.state.fields()[len(known[1]) :])]
            check = known[0].check
            for _, data in parts[len(known[1]) :]:
                check = _digest(check, data)
            if check == self.state.check:
                self.parts, self._loaded = parts, True
                return
        self.parts, self._loaded = await self._read(self.state.fields()), True

    def keep(self) -> None:
        """For the next attempt of this worker."""
        if self._known is not None and self._loaded:
            self._known.put(self._topic, self.state, self.parts)

    def _continues(self, known: Remembered) -> bool:
        state = self.state
        return (known.first, known.based) == (state.first, state.based) and known.last <= state.last

    async def _read(self, names: Sequence[str]) -> list[Part]:
        found = await record.read(self._store, self._topic, names)
        for name in names:
            if name not in found:
                raise EventsLost(f"what is remembered of the conversation is not whole: {name} is gone")
        return [(turn_of(name), found[name][_STATE.size :]) for name in names]

    # What is written

    def and_turn(self, turn: int, data: bytes) -> dict[str, bytes]:
        """Adds what this turn left, in place of what was added before for it; the fields to write with its end."""
        if self.state.last == turn:
            self.state = self._before
            self.parts.pop()
        self._before = self.state
        self.state = self.state.and_turn(turn, data)
        self.parts.append((turn, data))
        header = self.state.pack()
        return {history_field(turn): header + data, REMEMBERED: header}

    def forget(self, limit_bytes: int) -> tuple[int, dict[str, bytes]]:
        """Forgets the oldest until this much is left; the last turn that is forgotten, and the fields to write."""
        size, kept = self.state.size_bytes, list(self.parts)
        while kept and size > limit_bytes:
            size -= len(kept.pop(0)[1])
        first = kept[0][0] if kept else self.state.last + 1
        self.state, self.parts = self.state.from_turn(first, size), kept
        return first - 1, {REMEMBERED: self.state.pack()}

    def compact(self, data: bytes) -> dict[str, bytes]:
        """Puts this in the place of all that counts; the fields to write."""
        self.state = self.state.compacted(data)
        self.parts = [(0, data)]
        header = self.state.pack()
        return {base_field(self.state.first): header + data, REMEMBERED: header}

    async def spare(self, *, for_forks: bool) -> list[str]:
        """The fields to remove now: what counts no more, and is more than may be kept. `for_forks`: whether any of it
        is kept. Raises StoreUnavailable."""
        state = self.state
        end = state.kept if for_forks else state.first
        if state.last - end >= MAX_KEPT_TURNS:
            end = state.last - MAX_KEPT_TURNS + 1
        if state.kept_bytes > MAX_KEPT_BYTES:
            end = max(end, (state.kept + state.last) // 2)
        end = min(end, state.first)
        if end <= state.kept:
            return []
        before = history_field(end - 1)
        stored = await self._store.get(self._topic, [before])
        dropped = state.dropped_bytes
        if stored is not None and before in stored.fields:
            dropped = Remembered.unpack(stored.fields[before]).written_bytes
        self.state = replace(state, kept=end, dropped_bytes=dropped)
        return [field(turn) for turn in range(state.kept, end) for field in (history_field, base_field)]


def history_field(turn: int) -> str:
    """The field of what a turn left."""
    return f"{ASIDE}history/{turn}"


def base_field(turn: int) -> str:
    """The field of what stands for the turns before this one."""
    return f"{ASIDE}base/{turn}"


def turn_of(field: str) -> int:
    """The turn of a part; 0 for a base."""
    kind, _, turn = field.removeprefix(ASIDE).partition("/")
    return 0 if kind == "base" else int(turn)


def _digest(check: bytes, data: bytes) -> bytes:
    return blake2b(check + data, digest_size=8).digest()
