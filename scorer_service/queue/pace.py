"""How fast a judge model may be asked, by all replicas together: learned from how its provider takes it.

The rate grows with every answer: quickly until the provider first says 429, from then on slowly; and each 429 cuts it.
What was sent before the newest cut says nothing about the rate since, so it cuts no further. A provider that fails
several times in a row is taken as down: it is asked once a pause, which grows, until it answers; then the rate begins
again. So nothing storms a provider that comes back.

Permits are those of the generic cell rate algorithm: `next_time` runs ahead of the clock by one interval a request, by
at most the burst. All times are the database's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

FIRST_PER_SECOND: Final = 4.0
_MIN_PER_SECOND: Final = 0.05
_MAX_PER_SECOND: Final = 100_000.0
_QUICK_GROWTH: Final = 1.0
_SLOW_GROWTH: Final = 0.03
_FIRST_CUT: Final = 0.5
_CUT: Final = 0.75
_DOWN: Final = 3
"""Failures in a row that make a provider down."""
MAX_PAUSE_SECONDS: Final = 60.0
"""Longest pause between two requests to a provider that is down."""
MAX_RETRY_AFTER_SECONDS: Final = 300.0
"""Longest pause of a whole model, whatever its provider says."""
_MIN_BURST: Final = 2


@dataclass(slots=True)
class Pace:
    """State of one model."""

    next_time: float = 0.0
    per_second: float = FIRST_PER_SECOND
    cautious: bool = False
    """Whether the provider has said 429 before."""
    cut_time: float = 0.0
    """When it was last slowed down."""
    blocked_until: float = 0.0
    failures: int = 0
    """Requests in a row that the provider did not answer."""

    def room(self, now: float, limit: float | None = None, burst: int = _MIN_BURST) -> int:
        """How many requests may be sent now; `limit` and `burst` are what was configured."""
        if now < self.blocked_until:
            return 0
        if self.failures >= _DOWN:
            return 1
        rate = self._rate(limit)
        own = max(_MIN_BURST, int(self.per_second / 2))
        allowed = own if limit is None else min(own, burst)
        return max(0, int((now - max(now, self.next_time)) * rate + allowed + 1e-6))

    def take(self, now: float, count: int, limit: float | None = None) -> None:
        """Uses permits."""
        self.next_time = max(now, self.next_time) + count / self._rate(limit)
        if count and self.failures >= _DOWN:
            self.blocked_until = now + self._pause()

    def answered(self, now: float, sent_time: float) -> None:
        """The provider answered a request that was sent then."""
        if self.failures >= _DOWN:
            self.per_second = min(self.per_second, FIRST_PER_SECOND)
            self.blocked_until = 0.0
        self.failures = 0
        if sent_time > self.cut_time:
            growth = _SLOW_GROWTH if self.cautious else _QUICK_GROWTH
            self.per_second = min(_MAX_PER_SECOND, self.per_second + growth)

    def refused(self, now: float, sent_time: float, retry_after: float | None) -> None:
        """The provider said that it is asked too often."""
        self.failures = 0
        pause = min(MAX_RETRY_AFTER_SECONDS, max(0.0, retry_after or 0.0))
        if sent_time <= self.cut_time:
            return
        cut = _CUT if self.cautious else _FIRST_CUT
        self.per_second = max(_MIN_PER_SECOND, self.per_second * cut)
        self.cautious, self.cut_time = True, now
        self.blocked_until = max(self.blocked_until, now + pause)

    def failed(self, now: float, sent_time: float) -> None:
        """The provider did not answer."""
        if sent_time <= self.cut_time:
            return
        self.failures += 1
        if self.failures >= _DOWN:
            self.cut_time = now
            self.blocked_until = max(self.blocked_until, now + self._pause())

    def _rate(self, limit: float | None) -> float:
        return self.per_second if limit is None else min(limit, self.per_second)

    def _pause(self) -> float:
        longest = min(MAX_PAUSE_SECONDS, 0.5 * 2.0 ** min(self.failures - _DOWN + 1, 10))
        return random.uniform(0.5, 1.0) * longest
