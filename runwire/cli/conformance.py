"""conformance."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

import click

from runwire.cli.output import note, print_table
from runwire.cli.session import Address, Session, pass_session, service_options
from runwire.conformance.kit import Kit, Plan, Report
from runwire.conformance.validators import VALIDATORS
from runwire.scorer_requests import DEFAULT_TENANT


@click.command()
@click.option("--target", "targets", multiple=True, type=Address(), help="Agent service to test against; repeatable.")
@click.option("--gateway", "gateways", multiple=True, type=Address(), help="Gateway to read at, by HTTP; repeatable.")
@click.option("--command", required=True, help="How to start the client's adapter; see docs/conformance.md.")
@click.option("--cuts", type=click.IntRange(1, 1_000_000), default=300, show_default=True, help="Break so often.")
@click.option("--agent", default="ticker", show_default=True, help="Agent that takes count, interval_ms and text.")
@click.option("--events", type=click.IntRange(5, 10_000), default=100, show_default=True, help="Deltas of each run.")
@click.option("--seed", type=int, help="Repeats the random choices of an earlier call.")
@click.option("--patience", type=click.FloatRange(1, 600), default=30.0, show_default=True, help="Seconds of silence.")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose the runs are: the token's.")
@service_options()
@pass_session
def conformance(
    session: Session,
    targets: Sequence[str],
    gateways: Sequence[str],
    command: str,
    cuts: int,
    agent: str,
    events: int,
    seed: int | None,
    patience: float,
    tenant: str,
) -> int:
    """Hold a client to the contract: break its connections and judge what it makes of them.

    Exits with 1 if the client breaks any rule.
    """
    seed = random.randrange(1_000_000) if seed is None else seed
    plan = Plan(
        targets=targets or (session.agent_address,),
        command=command,
        cuts=cuts,
        agent_id=agent,
        events=events,
        seed=seed,
        patience_seconds=patience,
        tenant=tenant,
        gateways=gateways,
    )
    for target in plan.targets:
        with session.at(target).asking_agents() as client:
            client.list_agents()
    report = asyncio.run(Kit(plan, session.access).run())
    _print_json(report, seed) if session.json else _print(report, seed)
    return 0 if report.passed else 1


COMMANDS = (conformance,)


def _print(report: Report, seed: int) -> None:
    print_table(
        ("RULE", "RESULT", "CHECKED", "FAULTS", "FIRST FAULT"),
        (
            (
                name,
                "failed" if report.faults[name] else "succeeded",
                report.checked[name],
                len(report.faults[name]),
                report.faults[name][0] if report.faults[name] else (validator.__doc__ or "").partition("\n")[0],
            )
            for name, validator in VALIDATORS.items()
        ),
        empty="",
    )
    breaks = ", ".join(f"{count} {kind}" for kind, count in report.breaks.most_common())
    note(f"{report.runs} runs of {report.events} events in all, {report.cuts} breaks: {breaks} (seed {seed})")


def _print_json(report: Report, seed: int) -> None:
    for name in VALIDATORS:
        faults = report.faults[name]
        print(json.dumps({"rule": name, "passed": not faults, "checked": report.checked[name], "faults": faults}))
    print(json.dumps({"runs": report.runs, "events": report.events, "breaks": dict(report.breaks), "seed": seed}))
