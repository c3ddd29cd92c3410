"""The command itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from runwire.cli.evaluation import dataset as datasets
from runwire.cli.evaluation.gates import Gate, GateType
from runwire.cli.evaluation.report import COLUMNS, Report, report
from runwire.cli.evaluation.work import Outcome, Plan, Work, baseline
from runwire.cli.inputs import parse_json
from runwire.cli.output import note, print_table
from runwire.cli.session import Interrupted, Session, on_terminal, pass_session, service_options
from runwire.client import AgentClient, ScorerClient
from runwire.errors import NotFound, RunwireError
from runwire.scorer.v1 import scorer_run_pb2

_WRITERS: Final = (".json", ".md")


@click.command("eval")
@click.argument("dataset", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--agent", "agent_id", required=True, metavar="AGENT", help="The agent to run.")
@click.option("--scorers", required=True, metavar="ID,...", help="What scores each run.")
@click.option("--options", multiple=True, metavar="SCORER=JSON", help="Settings for a scorer, a JSON object.")
@click.option("--label", default="", metavar="NAME", help="Names this evaluation, to continue or to compare with it.")
@click.option("--baseline", "baseline_label", default="", metavar="NAME", help="The evaluation to compare with.")
@click.option("--gate", "gates", multiple=True, type=GateType(), help="What a mean must be, or exit code 1.")
@click.option("--min-coverage", type=click.FloatRange(0, 1), default=1.0, help="Least part with scores at a gate. [1]")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, help="How many runs at once. [8]")
@click.option("--report", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write a .md or .json file.")
@service_options()
@pass_session
def evaluate(
    session: Session,
    dataset: Path,
    agent_id: str,
    scorers: str,
    options: Sequence[str],
    label: str,
    baseline_label: str,
    gates: Sequence[Gate],
    min_coverage: float,
    concurrency: int,
    path: Path | None,
) -> int:
    """Run an agent over the cases of DATASET, score what it returns, and compare.

    A case is a line of JSON with `input`, and perhaps `expected`, `context` and `id`. Runs carry the label, so that the
    same command with the same --label continues where it was interrupted. Exits with 1 if a gate does not hold.
    """
    scorer_ids = list(dict.fromkeys(filter(None, map(str.strip, scorers.split(",")))))
    _check(scorer_ids, gates, baseline_label, path)
    label = label or f"eval-{time.strftime('%Y%m%d-%H%M%S')}"
    settings = _options(options, scorer_ids)
    plan = Plan(datasets.read(dataset), agent_id, scorer_ids, label, settings, concurrency)
    try:
        found = asyncio.run(_evaluate(session, plan, gates, baseline_label, min_coverage))
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the same command with --label {label} continues") from None
    except ExceptionGroup as several:
        # Some cases may have been run, and without its label nobody could continue.
        note(f"the same command with --label {label} continues")
        raise _first(several) from None
    _write(session, found, path)
    return 0 if found.passed else 1


def _check(scorer_ids: Sequence[str], gates: Sequence[Gate], baseline_label: str, path: Path | None) -> None:
    if not scorer_ids:
        raise click.UsageError("--scorers names none")
    for gate in gates:
        if gate.scorer_id not in scorer_ids:
            raise click.UsageError(f"--gate {gate.text}: {gate.scorer_id!r} is none of --scorers")
        if gate.of_baseline and not baseline_label:
            raise click.UsageError(f"--gate {gate.text}: there is no --baseline")
    if path is not None and path.suffix not in _WRITERS:
        raise click.UsageError(f"--report {path.name}: a report is a {' or a '.join(_WRITERS)} file")
    if path is not None and not path.parent.is_dir():
        raise click.UsageError(f"--report {path}: there is no folder {path.parent}")


def _options(given: Sequence[str], scorer_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for each in given:
        name, separator, text = each.partition("=")
        if not separator or name not in scorer_ids:
            raise click.UsageError(f"--options {each!r}: write SCORER=JSON, for one of --scorers")
        settings = parse_json(text, f"--options {name}")
        if not isinstance(settings, dict):
            raise click.UsageError(f"--options {name} must be a JSON object")
        found[name] = settings
    return found


async def _evaluate(
    session: Session, plan: Plan, gates: Sequence[Gate], baseline_label: str, min_coverage: float
) -> Report:
    async with (
        AgentClient(session.agent_address, **session.access(session.agent_address).arguments()) as agents,
        ScorerClient(session.scorer_address, **session.access(session.scorer_address).arguments()) as scorers,
    ):
        if plan.agent_id not in {each.agent_id for each in await agents.list_agents()}:
            raise NotFound(f"no agent {plan.agent_id!r}; see: runwire agents")
        listed = {each.scorer_id: each for each in await scorers.list_scorers()}
        if missing := [name for name in plan.scorer_ids if name not in listed]:
            raise NotFound(f"no scorer {missing[0]!r}; see: runwire scorers")
        before = await baseline(agents, scorers, plan.dataset, baseline_label) if baseline_label else {}
        if baseline_label and not before:
            raise NotFound(f"no run of {plan.dataset.name} has the label {baseline_label!r}")
        done = 0

        def on_done(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            if on_terminal():
                note(f"{done} of {len(plan.dataset.cases)}: {outcome.case.case_id} {outcome.state}")

        outcomes = await Work(agents, scorers, plan, on_done).run()
    lower = scorer_run_pb2.SCORE_DIRECTION_LOWER_IS_BETTER
    return report(
        plan,
        outcomes,
        gates,
        lower_is_better=frozenset(name for name in plan.scorer_ids if listed[name].direction == lower),
        before=before,
        baseline=baseline_label,
        min_coverage=min_coverage,
    )


def _write(session: Session, found: Report, path: Path | None) -> None:
    if path is not None:
        text = found.json() + "\n" if path.suffix == ".json" else found.markdown()
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None
    if session.json:
        print(found.json())
        return
    print_table(COLUMNS, found.rows(), empty="nothing was scored")
    for line in found.lines:
        for why in line.broken:
            note(f"gate: {why}")
    note(f"label: {found.plan.label}")


def _first(several: ExceptionGroup[Exception]) -> Exception:
    """What one of those who worked at once met."""
    found: Any = several
    while isinstance(found, ExceptionGroup):
        ours, _ = found.split(RunwireError)
        found = (ours or found).exceptions[0]
    return found  # type: ignore[no-any-return]


COMMANDS: Final = (evaluate,)
