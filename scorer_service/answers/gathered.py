"""Questions that are answered together: those that come while a read is under way wait for the next one, which is for
all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Asked(Generic[K, V]):
    def __init__(self, key: K) -> None:
        self.key = key
        self.is_answered = False
        self.answer: V | None = None
        self.error: Exception | None = None


class Gathered(Generic[K, V]):
    """Asks by `read`, for up to `most` at once. An answer is from a read that began after the question."""

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], *, most: int) -> None:
        self._read = read
        self._most = most
        self._reading = asyncio.Lock()
        self._waiting: list[_Asked[K, V]] = []

    async def ask(self, key: K) -> V | None:
        """The answer; None where the read had none. Raises what the read raised, as do all who waited for it."""
        asked: _Asked[K, V] = _Asked(key)
        self._waiting.append(asked)
        try:
            while not asked.is_answered:
                async with self._reading:
                    if not asked.is_answered:
                        await self._answer_some()
        finally:
            if asked in self._waiting:
                self._waiting.remove(asked)  # its caller does not wait any more
        if asked.error is not None:
            raise asked.error
        return asked.answer

    async def _answer_some(self) -> None:
        some, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        answers: Mapping[K, V] = {}
        error: Exception | None = None
        try:
            answers = await self._read(list(dict.fromkeys(each.key for each in some)))
        except Exception as raised:  # it is that of all of them: they must not try in vain one after the other
            error = raised
        except BaseException:  # the one that reads for the others is cancelled: another one will
            self._waiting = [*some, *self._waiting]
            raise
        for each in some:
            each.is_answered, each.answer, each.error = True, answers.get(each.key), error
