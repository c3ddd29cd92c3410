"""How much one tenant, and one principal, may have of a process: so that a caller that floods a service costs itself
time, and its neighbours nothing.

Each process counts by itself: with n replicas a tenant gets up to n times as much. That is enough for what these limits
are for, and costs no call a way to the store.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from runwire.errors import RateExceeded, TooManyStreams
from runwire.identity import policy
from runwire.identity.principal import Principal

_MAX_BUCKETS: Final = 10_000


@dataclass(frozen=True)
class Most:
    """What a process allows. 0: any number."""

    tenant_starts_per_second: float = 0.0
    tenant_start_burst: int = 1
    principal_streams: int = 0
    tenant_streams: int = 0


class Limits:
    """Counts what tenants and principals do. To be used on one event loop. Where there is no authentication nobody can
    be told from others, and nothing is counted."""

    def __init__(self, most: Most, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        """Of each tenant that started something lately: what is left, and when that was so."""
        self._streams: Counter[tuple[str, ...]] = Counter()

    @contextmanager
    def admitted(self, who: Principal, method: str) -> Iterator[None]:
        """Counts a call while it lasts. Raises RateExceeded, TooManyStreams."""
        if not who.name or method not in policy.COUNTED:
            yield
            return
        if method in policy.STARTS:
            self._start(who.tenant)
            yield
            return
        with self._stream(who):
            yield

    def _start(self, tenant: str) -> None:
        rate, burst = self._most.tenant_starts_per_second, float(self._most.tenant_start_burst)
        if not rate:
            return
        now = self._now()
        left, since = self._buckets.pop(tenant, (burst, now))
        left = min(burst, left + (now - since) * rate)
        self._buckets[tenant] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]  # who has been quiet for longest
        if left < 1:
            problem = f"tenant {tenant!r} starts more than {rate:g} a second"
            raise RateExceeded(problem, (1 - left) / rate, tenant=tenant)

    @contextmanager
    def _stream(self, who: Principal) -> Iterator[None]:
        most = {
            (who.tenant,): (self._most.tenant_streams, f"tenant {who.tenant!r}"),
            (who.tenant, who.subject): (self._most.principal_streams, f"{who.subject!r}"),
        }
        for key, (allowed, name) in most.items():
            if allowed and self._streams[key] >= allowed:
                raise TooManyStreams(f"{name} has {allowed} streams here, as many as it may", tenant=who.tenant)
        self._streams.update(most.keys())
        try:
            yield
        finally:
            self._streams.subtract(most.keys())
            for key in most:
                if not self._streams[key]:
                    del self._streams[key]
