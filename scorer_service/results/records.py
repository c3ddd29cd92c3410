"""What goes into the queue, what comes out of it, and what goes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Any

from runwire.values import MAX_DEPTH

MAX_MESSAGE_LENGTH = 2000
"""Longest error message that is kept."""
MAX_JSON_DEPTH = MAX_DEPTH
"""Deepest nesting of JSON that is kept."""


class State(IntEnum):
    """runwire.scorer.v1.ScorerRunState.

    PENDING -> RUNNING -> SUCCEEDED | FAILED | NOT_SCORABLE
                       -> RETRYING -> RUNNING     the scorer raised, or the worker died, or what it needs is away
                       -> PENDING                 handed back by a worker that shuts down
    every state that is not terminal -> CANCELLED; FAILED, NOT_SCORABLE, DECLINED, CANCELLED -> PENDING by a redrive
    """

    PENDING = 1
    RUNNING = 2
    RETRYING = 3
    SUCCEEDED = 4
    FAILED = 5
    NOT_SCORABLE = 6
    DECLINED = 7
    CANCELLED = 8


OPEN = (State.PENDING, State.RUNNING, State.RETRYING)
TERMINAL = (State.SUCCEEDED, State.FAILED, State.NOT_SCORABLE, State.DECLINED, State.CANCELLED)
REDRIVABLE = (State.FAILED, State.NOT_SCORABLE, State.DECLINED, State.CANCELLED)
"""A result is never overwritten: to score again, score with another version."""

PERSON = "person:"
"""How the worker of an opinion's scorer run begins: its author follows."""


class Priority(IntEnum):
    """runwire.scorer.v1.ScorerRunPriority."""

    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Error:
    """Why there is no score."""

    reason: str
    message: str
    error_class: str = ""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A scorer run to be put into the queue."""

    scorer_run_id: str
    tenant: str
    scorer_id: str
    run_id: str = ""
    agent_id: str = ""
    scorer_name: str = ""
    """Which use of the scorer: ScorerRef.name."""
    wanted_version: str = ""
    state: State = State.PENDING
    """PENDING, or a terminal state for what will not be scored."""
    error: Error | None = None
    priority: Priority = Priority.NORMAL
    rate: float = 1.0
    siblings: int = 0
    options: str = "{}"
    labels: str = "{}"
    traceparent: str = ""
    tracestate: str = ""
    deadline: float | None = None
    sample: bytes = b""
    """Serialised runwire.scorer.v1.Sample."""
    fingerprint: str = ""
    create_time: float | None = None
    """When the evaluated run asked; None: now."""
    requested_by: str = ""
    """Who asked for it; empty: its run, or somebody where there is no authentication."""

    @property
    def owner(self) -> str:
        """Whose sample it is: the run's, or its own where there is no run."""
        return self.run_id or self.scorer_run_id

    @property
    def sample_id(self) -> str:
        """Name of the sample: its hash, within the tenant."""
        return sha256(self.tenant.encode() + b"\0" + self.sample).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Job:
    """A scorer run in the hands of a worker, until it is finished or its lease ends."""

    scorer_run_id: str
    token: int
    """What a finish must name."""
    tenant: str
    run_id: str
    agent_id: str
    scorer_id: str
    wanted_version: str
    options: str
    steps: str
    """Results of completed steps: see `kept_steps`."""
    failures: int
    """Attempts that raised, since the last redrive."""
    start_time: float
    sample: bytes
    losses: int = 0
    """Workers, or processes of its own, that died of it or beside it."""
    alone: bool = False
    """It is to run where it can harm no other, nor be harmed: in a process of its own."""
    waits: int = 0
    """How often what it needs could not be had, since the last redrive."""
    waiting_since: float | None = None
    """Since when it has waited for that."""
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """A score as it is stored."""

    value: float
    label: str
    reason: str
    metadata: str
    direction: int
    judgement: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """How the provider of a judge model took the newest request of an attempt."""

    model: str
    answered: str
    """`answered`, `rate_limited` or `provider_unavailable`."""
    delay_seconds: float | None = None
    """The pause that it asked for."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How an attempt ended."""

    job: Job
    state: State
    scorer_version: str = ""
    score: ScoreRecord | None = None
    error: Error | None = None
    delay_seconds: float = 0.0
    """When it may be claimed again, for states that are not terminal."""
    failed: bool = False
    """The scorer raised: counts against its retries."""
    lost: bool = False
    """The process that ran it died: counts against its losses."""
    waited: bool = False
    """What it needs could not be had: no attempt, and its error says what it waits for."""
    steps: str = "{}"
    spent: str | None = None
    exchanges: str | None = None
    """What judges took: see `meter.Meter.text`."""
    asked: Asked | None = None


def microseconds(seconds: float) -> float:
    """Seconds cut to what a client is told, so that a time that it gives back compares equal."""
    return round(seconds * 1e6) / 1e6


def printable(text: str, limit: int = MAX_MESSAGE_LENGTH) -> str:
    """Text that every database takes: without NUL and lone surrogates, cut to `limit` characters."""
    clean = text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def json_text(value: Any) -> str:
    """JSON that every database and every message takes.

    Raises TypeError and ValueError for what is no JSON, numbers that are not finite, lone surrogates, and values nested
    deeper than MAX_JSON_DEPTH.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        text.encode()
        depth = _depth(value)
    except RecursionError:
        depth = MAX_JSON_DEPTH + 1
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} deep")
    return text


def _depth(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, (list, tuple)):
        return 1 + max(map(_depth, value), default=0)
    return 0


def kept_steps(text: str, version: str | None = None) -> dict[str, Any]:
    """The results of completed steps by name, from `{"version": ..., "steps": {...}}`. With a version: none, if another
    one of the scorer made them."""
    kept = json.loads(text) if text != "{}" else {}
    return dict(kept.get("steps", {})) if version is None or kept.get("version") == version else {}
