"""`--model`: the librarian driven by a real provider's protocol, in a real process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runwire.client import AgentClient, RunState
from tests.agents.provider import Call, Refuse, Speak, provider

KEY = "sk-test-0123456789abcdefghijklmnopqrstuvwxyz"


@asynccontextmanager
async def served_with(model: str, url: str) -> AsyncIterator[str]:
    """The address of an agent service in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent_service", "--listen", "127.0.0.1:0", "--store", "memory://", "--model", model,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        yield line.decode().rsplit(" ", 1)[1].strip()
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("model", ["openai:local", "openai-chat:local"])
async def test_librarian_with_a_provider(model: str) -> None:
    """The model's own search is executed, its answer is streamed, and only it is asked; the model is the one named."""
    async with (
        provider(Call("search_documentation", {"query": "cursor"}), Speak(["Cursors ", "mark places."])) as served,
        served_with(model, served.url) as address,
        AgentClient(address) as client,
        asyncio.timeout(60),
    ):
        view = await client.run("librarian", "What is a cursor?").fold()
    assert view.output == "Cursors mark places."
    [call] = view.tool_calls
    assert call.arguments == {"query": "cursor"}
    assert "ursor" in str(call.result)
    assert [request["model"] for request in served.requests] == ["local", "local"]


async def test_refused_key_is_not_told() -> None:
    """A provider that refuses the key, and quotes it, ends the run FAILED with an error that does not hold it."""
    async with (
        provider(Refuse(401, f"Incorrect API key provided: {KEY}")) as served,
        served_with("openai-chat:local", served.url) as address,
        AgentClient(address) as client,
        asyncio.timeout(60),
    ):
        stream = client.run("librarian", "What is a cursor?")
        view = await stream.fold()
        run = await client.get_run(stream.run_id)
    assert run.state == RunState.RUN_STATE_FAILED
    assert run.error.reason == "model_error"
    assert KEY not in str(run)
    assert KEY not in str(view)
