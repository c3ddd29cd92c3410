"""Who calls: made once for each call by `runwire.rpc`, and asked for by the handlers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from runwire.errors import OwnOnly
from runwire.scorer_requests import DEFAULT_TENANT

RUNS_READ: Final = "runs:read"
RUNS_WRITE: Final = "runs:write"
RUNS_ANSWER: Final = "runs:answer"
SCORES_READ: Final = "scores:read"
SCORES_WRITE: Final = "scores:write"
SCORES_WORK: Final = "scores:work"
"""To be a worker of scorers that are carried out elsewhere: it sees the samples of all runs that ask for them."""
ADMIN: Final = "admin"
"""Everything, and what concerns all tenants."""
OWN: Final = "own"
"""Grants nothing: narrows the others to what the principal itself started."""
SCOPES: Final = (RUNS_READ, RUNS_WRITE, RUNS_ANSWER, SCORES_READ, SCORES_WRITE, SCORES_WORK, ADMIN, OWN)

MAX_SUBJECT_LENGTH: Final = 256
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who calls, in one tenant. Raises ValueError for names that could be taken for others."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    expire_time: float | None = None
    """When its proof ends, in seconds since the Unix epoch; streams end then, too. None: it does not end by itself."""
    run_id: str = ""
    """The one run that it may read, and nothing else; empty: what its scopes say."""
    still_good: Callable[[], bool] | None = field(default=None, compare=False, repr=False)
    """Whether its proof was not taken back since."""

    def __post_init__(self) -> None:
        # A tenant is the first part of topics and lists: with a `/` in it, it would be another's.
        if not _TENANT.fullmatch(self.tenant):
            raise ValueError(f"{self.tenant!r} is no tenant: 1 to 64 letters, digits, '.', '_' or '-'")
        if not 1 <= len(self.subject) <= MAX_SUBJECT_LENGTH or not self.subject.isprintable():
            problem = f"a subject has 1 to {MAX_SUBJECT_LENGTH} printable characters, not {self.subject[:300]!r}"
            raise ValueError(problem)

    def may(self, scope: str) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes or ADMIN in self.scopes

    def is_proven(self) -> bool:
        """Whether what proved it still does: streams outlive the call that opened them."""
        if self.expire_time is not None and time.time() >= self.expire_time:
            return False
        return self.still_good is None or self.still_good()

    @property
    def name(self) -> str:
        """What is recorded of it; empty where there is no authentication."""
        return "" if self is ANONYMOUS else self.subject

    @property
    def owner(self) -> str | None:
        """Whose things it sees: its own alone, or (None) all of its tenant."""
        return self.subject if OWN in self.scopes and ADMIN not in self.scopes else None

    def sees(self, run_id: str) -> bool:
        """Whether it may know of a run of its tenant at all; whose it is comes on top."""
        return self.run_id in ("", run_id)

    def sees_all(self, what: str) -> None:
        """Raises OwnOnly if it sees its own things alone; `what` says what it asked for."""
        if self.owner is not None:
            raise OwnOnly(f"{what} is not only yours: name a run that you started")


ANONYMOUS: Final = Principal("anonymous", DEFAULT_TENANT, frozenset({ADMIN}))
"""Everybody, where there is no authentication."""

_CALLER: ContextVar[Principal] = ContextVar("caller")


def caller() -> Principal:
    """Who makes the call that is worked on. LookupError outside of one: nobody is anybody by default."""
    return _CALLER.get()


@contextmanager
def acting(principal: Principal) -> Iterator[None]:
    """Inside, `caller()` is this principal."""
    before = _CALLER.set(principal)
    try:
        yield
    finally:
        _CALLER.reset(before)


def checked_scopes(given: Iterable[str]) -> frozenset[str]:
    """The scopes by name. Raises ValueError for one that there is not."""
    scopes = frozenset(given)
    if unknown := sorted(scopes.difference(SCOPES)):
        raise ValueError(f"there is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}")
    return scopes
