"""How long a scorer run waits for its next attempt, no matter who carries it out."""

from __future__ import annotations

import random
from typing import Final

from scorer_service.results.records import Job
from scorer_service.scoring import RetryPolicy

MAX_PAUSE_SECONDS: Final = 600.0
"""Longest pause between two tries at what cannot be had, where nobody asks for a longer one."""


def waited_seconds(job: Job) -> float:
    """For how long it has waited already, when this attempt began."""
    return 0.0 if job.waiting_since is None else job.start_time - job.waiting_since


def pause_until(job: Job, policy: RetryPolicy, asked_seconds: float | None) -> float:
    """What was asked for, and a random part of what doubles each time: so they do not all come back in one moment."""
    ceiling = min(policy.ceiling(job.waits + 1), MAX_PAUSE_SECONDS)
    return (asked_seconds or 0.0) + random.uniform(0.0, ceiling)


def in_time(job: Job, pause: float) -> float:
    """A pause that does not go beyond the deadline: it is to be told when it has passed."""
    return pause if job.deadline is None else max(0.0, min(pause, job.deadline - job.start_time))
