"""fork and retry: runs that continue from others."""

from __future__ import annotations

import click

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.cli.follow import follow
from runwire.cli.inputs import read_input
from runwire.cli.many import Selection, chosen, retry_many, selecting
from runwire.cli.output import note, print_json, state_name
from runwire.cli.session import Session, pass_session, service_options


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--watch", "-w", is_flag=True, help="Follow the new run to its end.")
@click.option("--request-id", help="Makes a repeated command return the same run.")
@selecting
@click.option("--all", "every", is_flag=True, help="Every run that failed or was cancelled.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@service_options()
@pass_session
def retry(
    session: Session,
    run_id: str | None,
    watch: bool,
    request_id: str | None,
    selection: Selection,
    every: bool,
    dry_run: bool,
) -> int:
    """Continue with a run that failed or was cancelled, in a new run, whose id is printed; or with all that fit.

    What its finished steps and tool calls left is taken over and not done again; the rest is done by the agent as it
    is now. Of many, none is retried twice by the same options.
    """
    if (several := chosen([run_id] if run_id else [], selection, every=every)) is not None:
        if watch or request_id:
            raise click.UsageError("--watch and --request-id are for one RUN")
        return retry_many(session, several, dry_run=dry_run)
    assert run_id is not None
    with session.asking_agents() as client:
        run = client.get_run(run_id) if dry_run else client.fork_run(run_id, request_id=request_id)
    if dry_run:
        print(f"{run.run_id} is {state_name(run.state, run_pb2.RunState)}")
        return 0
    return _show(session, run, watch)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--step", metavar="STEP", help="Do this step and those after it again: its number, or its name.")
@click.option("--turn", type=int, metavar="N", help="Of a conversation: do this turn and those after it again.")
@click.option("--message", metavar="INPUT", help="In place of the run's input, or of the turn's message; as of start.")
@click.option("--text", is_flag=True, help="Take the message as text, although it looks like JSON.")
@click.option("--agent", "agent_id", default="", metavar="AGENT", help="Another agent of the same kind continues.")
@click.option("--model", default="", help="Model to use, one that the agent offers.")
@click.option("--wait", is_flag=True, help="The new conversation waits for a message.")
@click.option("--watch", "-w", is_flag=True, help="Follow the new run.")
@click.option("--request-id", help="Makes a repeated command return the same run.")
@service_options()
@pass_session
def fork(
    session: Session,
    run_id: str,
    step: str | None,
    turn: int | None,
    message: str | None,
    text: bool,
    agent_id: str,
    model: str,
    wait: bool,
    watch: bool,
    request_id: str | None,
) -> int:
    """Continue from a place in RUN in a new run, whose id is printed. RUN stays as it is.

    What came before the place is taken over and not done again. A run that failed or was cancelled is forked where it
    ended, without a place; a conversation after its last turn, where it waits for a message.
    """
    if step is not None and turn is not None:
        raise click.UsageError("give --step or --turn, and not both")
    with session.asking_agents() as client:
        run = client.fork_run(
            run_id,
            turn=turn,
            step=int(step) if step is not None and step.isdecimal() and len(step) < 10 else step,
            message=read_input(message, as_text=text) if message is not None else None,
            agent_id=agent_id,
            model=model,
            wait=wait,
            request_id=request_id,
        )
    return _show(session, run, watch)


def _show(session: Session, run: run_pb2.Run, watch: bool) -> int:
    if session.json:
        print_json(pb.ForkRunResponse(run=run))
    elif watch:
        note(f"run {run.run_id}")
    else:
        print(run.run_id, flush=True)
    return follow(session, run.run_id) if watch else 0


COMMANDS = (fork, retry)
