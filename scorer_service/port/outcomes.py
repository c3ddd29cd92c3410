"""What a report says, as the end of an attempt: the same rules as for scorers of the service itself."""

from __future__ import annotations

import random
from typing import Final

from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.scorer.v1 import scorer_run_pb2
from runwire.times import seconds_of
from runwire.values import from_struct
from scorer_service.execution.executor import handed_back
from scorer_service.execution.outcomes import record_of, steps_text
from scorer_service.execution.pauses import in_time, pause_until, waited_seconds
from scorer_service.meter import Meter
from scorer_service.port.external import External
from scorer_service.results.records import Error, Finished, Job, State, printable
from scorer_service.scoring import Judgement, RetryPolicy, Score

_MAX_NAME_LENGTH: Final = 128


def steps_of(job: Job, report: pb.ReportScorerRunRequest) -> str:
    """The results of steps, as they are kept from now on."""
    if not report.HasField("steps"):
        return job.steps
    return steps_text(report.scorer_version, from_struct(report.steps))


def finished_of(job: Job, scorer: External, report: pb.ReportScorerRunRequest, policy: RetryPolicy) -> Finished:
    """How an attempt ended, as its worker says; `report` says that it ended."""
    kept, meter = steps_of(job, report), _meter(report)
    kind = report.WhichOneof("report")
    if kind == "score":
        record = record_of(_score(report.score), scorer)
        return Finished(job, State.SUCCEEDED, scorer.version, record, steps=kept, spent=meter.text())
    if kind == "not_scorable":
        why = Error("not_scorable", printable(report.not_scorable.reason))
        return Finished(job, State.NOT_SCORABLE, scorer.version, error=why, steps=kept, spent=meter.text())
    if kind == "release":
        return handed_back(job, kept)
    return _failed(job, scorer, report.error, policy, kept, meter)


def timed_out(job: Job, scorer: External, policy: RetryPolicy, seconds: float) -> Finished:
    """The attempt took longer than it may."""
    error = Error("timeout", f"the attempt took longer than {seconds:g} s")
    return _again(job, scorer, error, policy, job.steps, Meter())


def _failed(
    job: Job, scorer: External, said: pb.AttemptError, policy: RetryPolicy, kept: str, meter: Meter
) -> Finished:
    name = printable(said.error_class, _MAX_NAME_LENGTH)
    waits = said.HasField("retry_after") and not said.non_retriable
    error = Error(said.reason or ("rate_limited" if waits else "scorer_error"), printable(said.message), name)
    if said.non_retriable:
        return Finished(job, State.FAILED, scorer.version, error=error, failed=True, steps=kept, spent=meter.text())
    if not waits:
        return _again(job, scorer, error, policy, kept, meter)
    spent = meter.text() if meter.is_paid else None
    if waited_seconds(job) >= policy.wait_seconds:
        return Finished(job, State.FAILED, scorer.version, error=error, failed=True, steps=kept, spent=spent)
    pause = in_time(job, pause_until(job, policy, seconds_of(said.retry_after)))
    return Finished(
        job, State.RETRYING, scorer.version, error=error, waited=True, delay_seconds=pause, steps=kept, spent=spent
    )


def _again(job: Job, scorer: External, error: Error, policy: RetryPolicy, kept: str, meter: Meter) -> Finished:
    """An attempt failed: there is another, or it was the last."""
    failures = job.failures + 1
    last = failures > policy.retries
    return Finished(
        job,
        State.FAILED if last else State.RETRYING,
        scorer.version,
        error=error,
        failed=True,
        delay_seconds=0.0 if last else random.uniform(0.0, policy.ceiling(failures)),
        steps=kept,
        spent=meter.text(),
    )


def _score(said: scorer_run_pb2.Score) -> Score:
    judged = said.judgement if said.HasField("judgement") else None
    return Score(
        said.value,
        said.label,
        said.reason,
        from_struct(said.metadata),
        Judgement(
            judged.model,
            judged.prompt_version,
            judged.input_tokens,
            judged.output_tokens,
            judged.cost_usd if judged.HasField("cost_usd") else None,
        )
        if judged
        else None,
    )


def _meter(report: pb.ReportScorerRunRequest) -> Meter:
    """What the attempt asked of a language model."""
    meter = Meter()
    if report.HasField("judging"):
        judging = report.judging
        meter.begin(printable(judging.model, _MAX_NAME_LENGTH))
        cost = judging.cost_usd if judging.HasField("cost_usd") else None
        meter.add(judging.requests or 1, judging.input_tokens, judging.output_tokens, cost)
    return meter
