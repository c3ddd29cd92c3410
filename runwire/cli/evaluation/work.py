"""Runs the cases and has them scored. Every request is named by its case, so that a command that is given again
continues: what was started or scored is neither again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.cli.evaluation.dataset import Case, Dataset
from runwire.client import AgentClient, ScorerClient, fold, from_value, sample_of, scorer_run_filter, to_value
from runwire.scorer.v1 import scorer_run_pb2 as pb
from runwire.scorer.v1 import scorer_run_requested_pb2

NAME: Final = "eval"
"""ScorerRef.name of the scores of evaluations, and the label that names one."""
CASE: Final = "eval-case"
DATASET: Final = "eval-dataset"
_ASKED: Final = "an evaluation cannot answer what the run asked a person"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer said of a case."""

    value: float | None
    """None where there is no score."""
    why: str = ""
    """Why there is none; or what the scorer said of it."""
    applies: bool = True
    """False: NOT_SCORABLE, which is no fault."""


@dataclass(slots=True)
class Outcome:
    """What became of a case."""

    case: Case
    run_id: str
    state: str
    output: Any = None
    error: str = ""
    scores: dict[str, Scored] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    dataset: Dataset
    agent_id: str
    scorer_ids: Sequence[str]
    label: str
    options: Mapping[str, Mapping[str, Any]]
    concurrency: int


class Work:
    """One evaluation."""

    def __init__(
        self, agents: AgentClient, scorers: ScorerClient, plan: Plan, on_done: Callable[[Outcome], None]
    ) -> None:
        self._agents = agents
        self._scorers = scorers
        self._plan = plan
        self._on_done = on_done
        self._asked: set[str] = set()
        """Runs that were cancelled for asking a person."""

    async def run(self) -> list[Outcome]:
        """All cases, `concurrency` at once; outcomes in their order."""
        waiting = iter(enumerate(self._plan.dataset.cases))
        done: dict[int, Outcome] = {}

        async def work() -> None:
            for index, case in waiting:
                done[index] = await self._case(case)
                self._on_done(done[index])

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._plan.concurrency, len(self._plan.dataset.cases))):
                group.create_task(work())
        return [done[index] for index in sorted(done)]

    async def _case(self, case: Case) -> Outcome:
        plan = self._plan
        labels = {NAME: plan.label, CASE: case.case_id, DATASET: plan.dataset.name}
        request_id = case.key("run", plan.agent_id, plan.label)
        started = await self._agents.start_run(plan.agent_id, case.input, request_id=request_id, labels=labels)
        events = await self._followed(started.run_id)
        run = await self._agents.get_run(started.run_id)
        outcome = _outcome(case, run)
        outcome.error = outcome.error or (_ASKED if run.run_id in self._asked else "")
        if run.state == run_pb2.RUN_STATE_SUCCEEDED:
            sample = sample_of(run, fold(events))
            if case.expected is not None:
                sample.ground_truth.CopyFrom(to_value(case.expected))
            sample.context.extend(case.context)
            asked = [await self._ask(case, scorer_id, sample) for scorer_id in plan.scorer_ids]
            for scorer_run in asked:
                outcome.scores[scorer_run.scorer_id] = scored(await self._ended(scorer_run))
        return outcome

    async def _followed(self, run_id: str) -> list[run_event_pb2.RunEvent]:
        """All events of a run. One that asks a person is cancelled: nobody is here to answer."""
        events = []
        async with self._agents.watch(run_id) as stream:
            async for event in stream:
                events.append(event)
                if event.run_suspended.pending:
                    run = await self._agents.get_run(run_id)
                    if run.state == run_pb2.RUN_STATE_SUSPENDED and run.pending:
                        self._asked.add(run_id)
                        await self._agents.cancel_run(run_id, reason=_ASKED)
        return events

    async def _ask(self, case: Case, scorer_id: str, sample: scorer_run_requested_pb2.Sample) -> pb.ScorerRun:
        options = self._plan.options.get(scorer_id)
        request_id = case.key("score", self._plan.agent_id, self._plan.label, scorer_id, repr(options))
        return await self._scorers.request_scorer_run(
            scorer_id, sample=sample, options=options, scorer_name=NAME, request_id=request_id
        )

    async def _ended(self, scorer_run: pb.ScorerRun) -> pb.ScorerRun:
        """It, once it has ended."""
        if scorer_run.HasField("end_time"):
            return scorer_run
        async with self._scorers.watch_scorer_runs(scorer_run.run_id) as stream:
            async for one in stream:
                if one.scorer_run_id == scorer_run.scorer_run_id and one.HasField("end_time"):
                    return one
        return await self._scorers.get_scorer_run(scorer_run.scorer_run_id)


def _outcome(case: Case, run: run_pb2.Run) -> Outcome:
    state = run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()
    error = f"{run.error.reason}: {run.error.message}" if run.HasField("error") else ""
    return Outcome(case, run.run_id, state, from_value(run.output), error)


def scored(run: pb.ScorerRun) -> Scored:
    """What a scorer run that has ended came to."""
    if run.state == pb.SCORER_RUN_STATE_SUCCEEDED:
        return Scored(run.score.value, run.score.reason or run.score.label)
    state = pb.ScorerRunState.Name(run.state).removeprefix("SCORER_RUN_STATE_").lower()
    why = f"{state}: {run.error.message or run.error.reason}"
    return Scored(None, why, applies=run.state != pb.SCORER_RUN_STATE_NOT_SCORABLE)


async def baseline(
    agents: AgentClient, scorers: ScorerClient, dataset: Dataset, label: str
) -> dict[str, dict[str, float]]:
    """The scores of an earlier evaluation, by case and scorer; of a case that ran twice, those of the newest run."""
    found: dict[str, dict[str, float]] = {}
    async for run in agents.list_runs(labels={NAME: label, DATASET: dataset.name}):
        case_id = run.labels[CASE]
        if case_id in found:
            continue
        found[case_id] = {}
        async for one in scorers.list_scorer_runs(scorer_run_filter(run_id=run.run_id, scorer_name=NAME)):
            if one.state == pb.SCORER_RUN_STATE_SUCCEEDED:
                found[case_id].setdefault(one.scorer_id, one.score.value)
    return found
