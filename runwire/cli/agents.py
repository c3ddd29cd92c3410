"""agents."""

from __future__ import annotations

import click

from runwire.agent.v1 import run_pb2
from runwire.cli.output import print_json, print_table, state_name
from runwire.cli.session import Session, pass_session, service_options


@click.command("agents")
@service_options()
@pass_session
def list_agents(session: Session) -> None:
    """List what the agent service can run. --json shows the schemas of inputs and outputs."""
    with session.asking_agents() as client:
        found = client.list_agents()
    if session.json:
        for agent in found:
            print_json(agent)
        return
    print_table(
        ("AGENT", "KIND", "VERSION", "SCORERS", "DESCRIPTION"),
        (
            (
                agent.agent_id,
                state_name(agent.kind, run_pb2.AgentKind),
                agent.version,
                ", ".join(each.scorer_id for each in agent.scorers),
                agent.description,
            )
            for agent in found
        ),
        empty="this service has no agents",
    )


COMMANDS = (list_agents,)
