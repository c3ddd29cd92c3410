"""Runs in parts, for protocols in which an agent that waits for somebody has ended its turn.

Part 0 of a run is what it does until it first waits for an answer, part 1 what follows the answer, and so on. The
boundaries are in the log, so every reader finds the same ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.client import AgentClient

_PAGE_EVENTS: Final = 1000


def waits_for_somebody(event: run_event_pb2.RunEvent) -> bool:
    """Whether the event ends a part because the run wants an answer. A pause is none."""
    return any(each.kind != run_pb2.PENDING_KIND_TIME for each in event.run_suspended.pending)


async def so_far(client: AgentClient, run_id: str) -> AsyncIterator[agent_service_pb2.ListRunEventsResponse]:
    """The log up to now, in pages."""
    cursor, more = "", True
    while more:
        asked = agent_service_pb2.ListRunEventsRequest(run_id=run_id, cursor=cursor, page_size=_PAGE_EVENTS)
        page = await client.call("ListRunEvents", asked)
        yield page
        cursor, more = page.cursor, bool(page.next_page_token)
