"""The state machine of tests/log/machine.py, in small for every day and in large on demand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.log.machine import LogMachine


def hold(examples: int, steps: int, *, find: bool = False) -> None:
    """Runs the machine. `find`: only to see that it fails, always with the same histories."""
    phases = (Phase.generate,) if find else (Phase.reuse, Phase.generate, Phase.shrink)
    run_state_machine_as_test(
        LogMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=phases,
            derandomize=find,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(900)  # it passes in seconds; finding the shortest history that fails takes long
def test_readers_get_exactly_the_log() -> None:
    """Whatever happens to a log, its store and its messages, a reader gets exactly the log or is told why not."""
    hold(examples=500, steps=60)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_readers_get_exactly_the_log_for_long() -> None:
    """The same, with many more and longer histories."""
    hold(examples=5000, steps=120)
