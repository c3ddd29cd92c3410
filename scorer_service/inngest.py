"""Runwire scorers as Inngest functions: see docs/inngest.md.

    quality = scorer_function(client, scorer, lambda: ScorerClient("scores.internal:50052"))

The function takes the event that a dispatcher sends for a claim, carries out each step of the
scorer as a step of its own, and reports in its last one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import inngest
from google.protobuf import json_format

from runwire.client import ScorerClient
from runwire.client.worker import error_of, score_of
from runwire.errors import ClaimLost, NotFound
from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.values import carry_struct, from_struct
from scorer_service.samples import from_wire
from scorer_service.scoring import Judge, NonRetriableError, NotScorable, ProviderUnavailable, Scorer, StepRun, evaluate

EVENT: Final = "scorer.run.requested"
_NOT_SCORABLE: Final = "not_scorable"
_REASON: Final = "runwire_reason="
"""How the words of an error that ends a function begin, so that its reason comes back with its failure."""

Service = Callable[[], ScorerClient]
"""Makes a client of the scorer service, to report by."""


def scorer_function(
    client: inngest.Inngest,
    scorer: Scorer,
    service: Service,
    *,
    judge: Judge | None = None,
    retries: int | None = None,
    concurrency: int | None = None,
) -> inngest.Function[Any]:
    """An Inngest function of a scorer or a Pipeline. `retries` and `concurrency` are Inngest's; None leaves them to it.

    What the scorer raises: NotScorable is reported; NonRetriableError ends the function and is reported; RetryAfter and
    ProviderUnavailable let Inngest try again then; anything else lets it try again, and is reported when it gives up.
    """
    for name in (scorer.id, scorer.version):
        if "'" in name or "\\" in name:
            raise ValueError(f"{name!r} cannot stand in an expression of Inngest")

    async def on_failure(ctx: inngest.Context) -> None:
        data: Any = ctx.event.data
        await _report_failure(service, data["event"]["data"], data.get("error", {}))

    create = client.create_function(
        fn_id=f"runwire-{scorer.id}-{scorer.version}",
        name=f"{scorer.id} {scorer.version}",
        trigger=inngest.TriggerEvent(
            event=EVENT,
            expression=f"event.data.scorer_id == '{scorer.id}' && event.data.scorer_version == '{scorer.version}'",
        ),
        # The event's id names the claim already; this holds where it was sent by other ways.
        idempotency="event.data.scorer_run_id + '-' + string(event.data.claim)",
        concurrency=None if concurrency is None else [inngest.Concurrency(limit=concurrency)],
        retries=retries,
        on_failure=on_failure,
    )

    async def carry_out(ctx: inngest.Context) -> str:
        data: Any = ctx.event.data
        ended = await _evaluate(ctx, scorer, judge, service, data)
        reported: str = await ctx.step.run("report", lambda: _report(service, data, ended))
        return reported

    return create(carry_out)


async def _evaluate(
    ctx: inngest.Context, scorer: Scorer, judge: Judge | None, service: Service, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The end of the attempt, as the JSON of a report."""
    claimed = _claimed(data)
    if claimed.sample.by_reference:
        raise inngest.NonRetriableError(f"{_REASON}sample_too_large the sample is larger than an event")
    kept = from_struct(claimed.steps)

    async def run_step(name: str, work: StepRun) -> Any:
        async def once() -> Any:
            try:
                result = await work()
            except NotScorable as error:
                return {_NOT_SCORABLE: error.reason}
            except NonRetriableError as error:
                raise inngest.NonRetriableError(f"{_REASON}{error.reason} {error}") from error
            except ProviderUnavailable as error:
                delay = timedelta(seconds=error.delay_seconds or 0.0)
                raise inngest.RetryAfterError(str(error), delay) from error
            kept[name] = result
            await _extend(service, data, kept)
            return {"result": result}

        found: Any = await ctx.step.run(name, once)
        if _NOT_SCORABLE in found:
            raise NotScorable(found[_NOT_SCORABLE])
        kept[name] = found["result"]
        return found["result"]

    try:
        sample, options = from_wire(claimed.sample), from_struct(claimed.options)
        score = await evaluate(scorer, sample, options, judge=judge, done=kept.copy(), run_step=run_step)
    except NotScorable as error:
        return {_NOT_SCORABLE: {"reason": error.reason}}
    return {"score": _as_json(score_of(score))}


# Reports


async def _report(service: Service, data: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    """Reports an end; says what became of the report."""
    report = json_format.ParseDict(dict(ended), _report_of(data))
    async with service() as client:
        try:
            await client.report_scorer_run(report)
        except (ClaimLost, NotFound) as error:
            return error.reason
    return "reported"


async def _report_failure(service: Service, data: Mapping[str, Any], error: Mapping[str, Any]) -> None:
    """Inngest has given up."""
    message = str(error.get("message", ""))
    said = error_of(RuntimeError(message))
    said.error_class = str(error.get("name", ""))
    if message.startswith(_REASON):
        said.reason, _, said.message = message.removeprefix(_REASON).partition(" ")
        said.non_retriable = True
    await _report(service, data, {"error": _as_json(said)})


async def _extend(service: Service, data: Mapping[str, Any], steps: Mapping[str, Any]) -> None:
    """Keeps the results of steps, and the claim. Raises NonRetriableError where that is lost: others carry it out."""
    report = _report_of(data)
    report.extension.SetInParent()
    if lease := data.get("lease"):
        report.extension.lease.FromJsonString(lease)
    report.steps.CopyFrom(carry_struct(dict(steps)))
    async with service() as client:
        try:
            await client.report_scorer_run(report)
        except (ClaimLost, NotFound) as error:
            raise inngest.NonRetriableError(str(error)) from error


def _claimed(data: Mapping[str, Any]) -> pb.ClaimedScorerRun:
    return json_format.ParseDict(dict(data), pb.ClaimedScorerRun(), ignore_unknown_fields=True)


def _report_of(data: Mapping[str, Any]) -> pb.ReportScorerRunRequest:
    return pb.ReportScorerRunRequest(
        worker=data["worker"],
        scorer_run_id=data["scorer_run_id"],
        claim=data["claim"],
        scorer_version=data["scorer_version"],
    )


def _as_json(message: Any) -> Any:
    return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))
