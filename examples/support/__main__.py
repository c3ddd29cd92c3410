"""`python -m examples.support`: a conversation with the support agent, both services in this process, without a key."""

from __future__ import annotations

import asyncio

from examples.support.agent import promises_kept, support
from runwire.client import approve
from runwire.testing import serve

MESSAGES = ("Hello, my order is broken.", "It is number 8.", "I want my money back.")


async def main() -> None:
    async with serve([support], scorers=[promises_kept]) as services, services.conversation("support") as chat:
        for message in MESSAGES:
            print(f"customer: {message}")
            async for event in chat.send(message):
                for pending in event.run_suspended.pending:
                    asked = dict(pending.metadata.items())
                    print(f"  a person is asked: {pending.name} {asked}, and approves")
                    await services.client.resume_run(chat.run_id, [approve(pending.request_id)])
                print(event.text_delta.text, end="")
            print()
        scores = await services.scores(chat.run_id)
        print(f"promises-kept: {scores['promises-kept'].score.value:g} ({scores['promises-kept'].score.reason})")


asyncio.run(main())
