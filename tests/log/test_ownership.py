"""Who owns a topic: the machine of tests/log/ownership.py, and that it notices each guard that is taken away.

Not here is the attempt of a commit: the token stands behind it. Commits without one are held by tests/conformance.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from runwire import topic
from tests.log.mutation import mutate
from tests.log.ownership import OwnershipMachine

GUARDS = {
    "the token of a commit": (" or (commit.token and commit.token != self.token)", ""),
    "a claim that the store forgot": (
        "if commit.attempt > self.attempt and not commit.token:",
        "if commit.attempt > self.attempt:",
    ),
    "the token of an extension": (" or lease.token != self.token:", ":"),
    "the lease of an extension": ("if not self.leased or lease.attempt", "if lease.attempt"),
    "the grace of a lease that ran out": (
        "        if not self.leased or self.overdue:\n            return False\n",
        "        return False\n",
    ),
    "that grace is given once": ("if not self.leased or self.overdue:", "if not self.leased:"),
    "that an extension gives grace anew": (
        "        self.overdue = False\n        self.lease = lease_seconds",
        "        self.lease = lease_seconds",
    ),
    "that one's own claim is no loss": ("if self.leased and holder != self.holder:", "if self.leased:"),
    "that another's claim is one": (
        "        if self.leased and holder != self.holder:\n            self._lose()\n",
        "",
    ),
    "that what was given up is one": (
        "            self._lose()\n            self.leased = self.overdue = False",
        "            self.leased = self.overdue = False",
    ),
    "that losses alone are counted apart": (
        "        if self.alone:\n            self.alone_losses",
        "        if True:\n            self.alone_losses",
    ),
    "the lane of a lease": ("self.suspect = self.losses + 1 >= SUSPECT_LOSSES", "self.suspect = False"),
    "the lane of what was given up": ("self.suspect = self.losses >= SUSPECT_LOSSES", "self.suspect = False"),
    "that progress absolves": ("        if commit.progress:\n            self._absolve()\n", ""),
    "that both counts are cleared": ("self.losses = self.alone_losses = 0", "self.losses = 0"),
    "that the lane is left with them": (
        "        self.losses = self.alone_losses = 0\n        self.suspect = False\n",
        "        self.losses = self.alone_losses = 0\n",
    ),
    "the wake of what was given up": ("self.due = now if self.woken else now + grace", "self.due = now + grace"),
}


EVERY_DAY = (
    "the token of a commit",
    "the token of an extension",
    "the grace of a lease that ran out",
    "that one's own claim is no loss",
    "that losses alone are counted apart",
)


def hold(examples: int, steps: int, *, find: bool = False) -> None:
    """Runs the machine. `find`: only to see that it fails, always with the same histories."""
    run_state_machine_as_test(
        OwnershipMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=(Phase.generate,) if find else (Phase.reuse, Phase.generate, Phase.shrink),
            derandomize=find,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_topic_has_one_owner() -> None:
    """Whatever workers do and a store forgets: one owner, its losses as they were, given out in time and lane."""
    hold(examples=200, steps=60)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_topic_has_one_owner_for_long() -> None:
    """The same, with many more and longer histories."""
    hold(examples=5000, steps=120)


def check_found(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, topic, *GUARDS[guard])
    with pytest.raises(BaseException) as found:  # noqa: PT011 - an assertion, a ValueError of the store
        hold(examples=2000, steps=60, find=True)
    assert not isinstance(found.value, KeyboardInterrupt | pytest.fail.Exception), found.value


@pytest.mark.parametrize("guard", EVERY_DAY)
def test_the_machine_finds_what_a_guard_is_for(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this guard somebody gets or keeps what is another's, or is counted wrongly."""
    check_found(guard, monkeypatch)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard not in EVERY_DAY])
def test_the_machine_finds_what_every_guard_is_for(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, of those that take longer to find."""
    check_found(guard, monkeypatch)
