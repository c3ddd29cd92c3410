"""What scorers raise, wherever they are carried out."""

from __future__ import annotations

from datetime import timedelta


class NotScorable(Exception):
    """Raised or returned by a scorer: this sample cannot be scored, for a reason that no retry will change. The
    scorer run ends NOT_SCORABLE, which is no failure."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NonRetriableError(Exception):
    """Raised by a scorer: the attempt failed, and so would every other. `reason` is machine-readable."""

    reason = "scorer_error"

    def __init__(self, message: str, *, reason: str = "scorer_error") -> None:
        super().__init__(message)
        self.reason = reason


class ProviderUnavailable(Exception):
    """Raised by a scorer: what it needs cannot be had now. That is no failed attempt: the scorer run is RETRYING, with
    this `reason`, and is tried again after pauses that grow, for as long as `RetryPolicy.wait_seconds` says. `delay`,
    in seconds or as a timedelta, is the least pause until then."""

    reason = "provider_unavailable"
    delay_seconds: float | None = None

    def __init__(self, message: str, delay: float | timedelta | None = None) -> None:
        super().__init__(message)
        if delay is not None:
            seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
            self.delay_seconds = max(0.0, seconds)


class RetryAfter(ProviderUnavailable):
    """Raised by a scorer that is asked too often: the next attempt makes sense after `delay`, in seconds or as a
    timedelta. It comes then or a little later, so that not all come back in one moment, and counts as no attempt."""

    reason = "rate_limited"

    def __init__(self, delay: float | timedelta, message: str = "") -> None:
        super().__init__(message, delay)
        if not message:
            self.args = (f"try again in {self.delay_seconds:g} s",)
