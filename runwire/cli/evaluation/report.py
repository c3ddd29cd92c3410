"""What an evaluation came to: means, beside a baseline, and whether the gates hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from runwire.cli.evaluation.gates import Gate
from runwire.cli.evaluation.work import Outcome, Plan

COLUMNS: Final = ("SCORER", "MEAN", "SCORED", "MISSING", "BASELINE", "CHANGE", "BETTER", "WORSE", "GATE")
_SHOWN: Final = 20
"""Cases that a report lists of each kind."""
_CUT: Final = 300


@dataclass(slots=True)
class Line:
    """One scorer."""

    scorer_id: str
    mean: float | None
    scored: int
    missing: int
    """Cases that should have a score and have none: their run failed, or their scorer did."""
    lower_is_better: bool = False
    baseline: float | None = None
    """Mean of the same cases in the baseline; of those that both have."""
    better: int = 0
    worse: int = 0
    gates: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Why gates do not hold."""

    @property
    def change(self) -> float | None:
        if self.mean is None or self.baseline is None:
            return None
        return self.mean - self.baseline


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation."""

    plan: Plan
    outcomes: Sequence[Outcome]
    lines: Sequence[Line]
    baseline: str

    @property
    def passed(self) -> bool:
        return not any(line.broken for line in self.lines)

    def rows(self) -> list[list[str]]:
        """The table."""
        return [
            [
                line.scorer_id,
                _number(line.mean),
                str(line.scored),
                str(line.missing),
                _number(line.baseline),
                "" if line.change is None else f"{line.change:+.4f}",
                str(line.better) if self.baseline else "",
                str(line.worse) if self.baseline else "",
                "failed" if line.broken else ("passed" if line.gates else ""),
            ]
            for line in self.lines
        ]

    def json(self) -> str:
        """All of it, for machines."""
        plan = self.plan
        return json.dumps(
            {
                "dataset": plan.dataset.name,
                "agent": plan.agent_id,
                "label": plan.label,
                "baseline": self.baseline or None,
                "passed": self.passed,
                "scorers": [{**asdict(line), "change": line.change} for line in self.lines],
                "cases": [_case(outcome) for outcome in self.outcomes],
            },
            ensure_ascii=False,
        )

    def markdown(self) -> str:
        """For people: a table, what broke a gate, and the cases to look at."""
        plan = self.plan
        lines = [
            f"# {plan.agent_id} on {plan.dataset.name}: {'passed' if self.passed else 'failed'}",
            "",
            f"{len(self.outcomes)} cases, label `{plan.label}`"
            + (f", compared with `{self.baseline}`" if self.baseline else ""),
            "",
            "| " + " | ".join(name.capitalize() for name in COLUMNS) + " |",
            "|---|" + "--:|" * (len(COLUMNS) - 2) + "---|",
            *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in self.rows()),
        ]
        lines += ["", *(f"- {why}" for line in self.lines for why in line.broken)]
        for line in self.lines:
            lines += _worst(line, self.outcomes)
        failed = [outcome for outcome in self.outcomes if outcome.state != "succeeded"]
        if failed:
            lines += ["", "## Runs that failed", ""]
            lines += [f"- `{_cell(each.case.case_id)}` {each.run_id}: {_cell(each.error)}" for each in failed[:_SHOWN]]
        return "\n".join(lines).rstrip() + "\n"


def _worst(line: Line, outcomes: Sequence[Outcome]) -> list[str]:
    """The lowest scores of a scorer, with what it said of them."""
    found = [(each.scores[line.scorer_id], each) for each in outcomes if line.scorer_id in each.scores]
    values = [(one.value, one.why, each) for one, each in found if one.value is not None]
    worst = sorted(values, key=lambda one: one[0], reverse=line.lower_is_better)[:5]
    if not worst:
        return []
    return [
        "",
        f"## {line.scorer_id}, from the worst on",
        "",
        *(f"- {value:.4f} `{_cell(each.case.case_id)}` {each.run_id}: {_cell(why)}" for value, why, each in worst),
    ]


def _case(outcome: Outcome) -> dict[str, Any]:
    scores = {name: {"value": one.value, "why": one.why} for name, one in outcome.scores.items()}
    return {
        "id": outcome.case.case_id,
        "run_id": outcome.run_id,
        "state": outcome.state,
        "error": outcome.error or None,
        "output": outcome.output,
        "scores": scores,
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _cell(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return plain if len(plain) <= _CUT else plain[:_CUT] + " …"


def report(
    plan: Plan,
    outcomes: Sequence[Outcome],
    gates: Sequence[Gate],
    *,
    lower_is_better: frozenset[str],
    before: Mapping[str, Mapping[str, float]],
    baseline: str,
    min_coverage: float,
) -> Report:
    """What the outcomes come to; `before` are the scores of the baseline, by case and scorer."""
    lines = []
    for scorer_id in plan.scorer_ids:
        line = _line(scorer_id, outcomes, before, lower=scorer_id in lower_is_better)
        for gate in gates:
            if gate.scorer_id == scorer_id:
                line.gates.append(gate.text)
                if why := _problem(gate, line, min_coverage):
                    line.broken.append(why)
        lines.append(line)
    return Report(plan, outcomes, lines, baseline)


def _line(
    scorer_id: str, outcomes: Sequence[Outcome], before: Mapping[str, Mapping[str, float]], *, lower: bool
) -> Line:
    values = {
        each.case.case_id: each.scores[scorer_id].value
        for each in outcomes
        if scorer_id in each.scores and each.scores[scorer_id].value is not None
    }
    apart = sum(scorer_id in each.scores and not each.scores[scorer_id].applies for each in outcomes)
    line = Line(scorer_id, _mean(list(values.values())), len(values), len(outcomes) - len(values) - apart, lower)
    pairs = [
        (value, before[case_id][scorer_id])
        for case_id, value in values.items()
        if value is not None and scorer_id in before.get(case_id, {})
    ]
    line.baseline = _mean([then for _, then in pairs])
    ups, downs = (sum(now > then for now, then in pairs), sum(now < then for now, then in pairs))
    line.better, line.worse = (downs, ups) if lower else (ups, downs)
    return line


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _problem(gate: Gate, line: Line, min_coverage: float) -> str:
    """Why a gate does not hold; empty if it does."""
    wanted = line.scored + line.missing
    if line.mean is None:
        return f"{gate.text}: no case was scored"
    if line.scored < min_coverage * wanted:
        return f"{gate.text}: {line.missing} of {wanted} cases have no score"
    bound = gate.bound(line.baseline)
    if bound is None:
        return f"{gate.text}: no case has a score in the baseline"
    return "" if gate.holds(line.mean, bound) else f"{gate.text}: the mean is {line.mean:.4f}"
