"""How long to pause after a failure: the one formula, used by everything that tries again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

_MAX_EXPONENT: Final = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with jitter (AWS, "Exponential Backoff And Jitter").

    The bound of a pause begins at `first_seconds`, grows by `factor` with each failure in a row, and is at most
    `max_seconds`. A pause is drawn evenly from the upper `jitter` part of its bound: 1 is full jitter, 0 none.
    """

    first_seconds: float
    max_seconds: float
    factor: float = 2.0
    jitter: float = 1.0

    def bound(self, failures: int) -> float:
        """The longest pause after this many failures in a row, 1 or more, in seconds."""
        try:
            return min(self.max_seconds, self.first_seconds * self.factor ** min(failures - 1, _MAX_EXPONENT))
        except OverflowError:
            return self.max_seconds

    def pause(self, failures: int) -> float:
        """A pause after this many failures in a row, 1 or more, in seconds."""
        bound = self.bound(failures)
        return random.uniform((1.0 - self.jitter) * bound, bound)
