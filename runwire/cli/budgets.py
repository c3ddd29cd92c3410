"""budget: what judges may spend."""

from __future__ import annotations

from typing import Final

import click

from runwire.cli.inputs import Duration
from runwire.cli.output import print_json, print_table, span
from runwire.cli.session import Session, pass_session, service_options
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.times import seconds_of


@click.command()
@click.argument("scorer_id", metavar="[SCORER]", required=False, default="")
@click.option(
    "--window", type=Duration(), default="1d", metavar="TIME", help="How long a budget is for: 1h, 1d, 30d ... [1d]"
)
@click.option("--max-tokens", type=click.IntRange(0), metavar="N", help="Most tokens in a window.")
@click.option(
    "--max-cost", "max_cost_usd", type=click.FloatRange(0), metavar="USD", help="Most US dollars in a window."
)
@click.option("--remove", is_flag=True, help="There is no budget any more.")
@service_options()
@pass_session
def budget(
    session: Session, scorer_id: str, window: float, max_tokens: int | None, max_cost_usd: float | None, remove: bool
) -> None:
    """Show what judges may spend and did; with a limit set it, for SCORER or for all scorers together.

    Beyond a budget scorer runs are declined. Later: runwire redrive --declined budget
    """
    limited = max_tokens is not None or max_cost_usd is not None
    if remove and limited:
        raise click.UsageError("--remove stands alone")
    with session.asking_scorers() as client:
        if limited or remove:
            client.set_scorer_budget(scorer_id, window=window, max_tokens=max_tokens, max_cost_usd=max_cost_usd)
        found = [each for each in client.list_scorer_budgets() if scorer_id in ("", each.scorer_id)]
    if session.json:
        for each in found:
            print_json(each)
        return
    print_table(("SCORER", "WINDOW", "TOKENS", "OF", "USD", "OF"), map(_row, found), empty="there are no budgets")


def _row(each: pb.ScorerBudget) -> tuple[object, ...]:
    return (
        each.scorer_id or "(all)",
        span(seconds_of(each.window)),
        each.spent_tokens,
        each.max_tokens if each.HasField("max_tokens") else "",
        f"{each.spent_cost_usd:.4f}",
        f"{each.max_cost_usd:.4f}" if each.HasField("max_cost_usd") else "",
    )


COMMANDS: Final = (budget,)
