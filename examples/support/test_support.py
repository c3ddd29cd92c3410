"""The support agent, with a model that follows a script."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from examples.support.agent import agent, promises_kept, support
from runwire.client import RunState, approve, deny
from runwire.testing import Services, call, called, scripted, serve


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with serve([support], scorers=[promises_kept]) as services:
        yield services


async def test_a_small_refund_asks_nobody(services: Services) -> None:
    """Below the limit the agent decides, and what it says is scored."""
    with scripted(agent, call("refund", number=7, reason="broken"), "20.00 euros go back."):
        view = await services.run("support", "Order 7 is broken")
    assert called(view) == [("refund", {"number": 7, "reason": "broken"})]
    assert view.output == "20.00 euros go back."
    assert (await services.scores(view.run_id))["promises-kept"].score.value == 1.0


@pytest.mark.parametrize("answer, result", [(approve, "300.00 euros of order 8 go back."), (deny, "denied")])
async def test_a_large_refund_waits_for_a_person(services: Services, answer: object, result: str) -> None:
    """In a conversation too: the turn waits, and the answer decides what the model is told."""
    with scripted(agent, "Which order?", call("refund", number=8, reason="late"), "It is decided."):
        async with services.conversation("support") as chat:
            assert (await chat.ask("I want my money back")).output == "Which order?"
            asked = []
            async for event in chat.send("Number 8"):
                for pending in event.run_suspended.pending:
                    asked.append(dict(pending.metadata.items()))
                    await services.client.resume_run(chat.run_id, [answer(pending.request_id)])  # type: ignore[operator]
            view = await services.view(chat.run_id)
    assert asked == [{"order": 8, "euros": 300, "reason": "late"}]
    assert result in str(view.turns[2].tool_calls[0].result)
    assert view.turns[2].output == "It is decided."


async def test_orders_of_others_are_not_found(services: Services) -> None:
    """Whose orders they are is said by the caller who starts the run, and not by the model."""
    with scripted(agent, call("find_order", number=8), "Which number is it?"):
        view = await services.run("support", "Where is order 8?", context={"account": "B-2"})
        async with services.conversation("support", context={"account": "B-2"}) as chat:
            turn = await chat.ask("Where is order 8?")
    assert view.tool_calls[0].result == turn.tool_calls[0].result
    assert view.state == RunState.RUN_STATE_SUCCEEDED
    assert "There is no order 8" in str(view.tool_calls[0].result)


async def test_a_promise_that_was_not_kept(services: Services) -> None:
    """The scorer sees that nothing was given back."""
    with scripted(agent, "Your 20 euros go back."):
        view = await services.run("support", "I want my money back")
    scored = (await services.scores(view.run_id))["promises-kept"]
    assert (scored.score.value, scored.score.reason) == (0.0, "nothing was given back")


async def test_the_stand_in_speaks(services: Services) -> None:
    """Without a script the example's own model answers, so that it can be tried without a key."""
    view = await services.run("support", "Where is order 7?")
    assert view.output == "Order 7: 20.00 euros, paid."
