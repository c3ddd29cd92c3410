"""Unary calls: repeated while that is safe, paged, and free of everything a client should not carry."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import threading
from importlib import metadata

import grpc
import pytest

from runwire import client, errors
from runwire.client import AgentClient, ResumePolicy, ScorerClient, sync
from runwire.client.resume import Delays
from tests.client.conftest import QUICK
from tests.client.scripted import Context, ScriptedAgentService, fail, play
from tests.servers import free_port


async def test_start_is_repeated_with_the_same_request_id(service: ScriptedAgentService, address: str) -> None:
    """A start whose answer was lost is sent again under the same id, so that one run comes of it."""
    service.unary.append(fail(errors.StoreUnavailable("no", 0.0)))
    async with AgentClient(address, resume=QUICK) as agents:
        run = await agents.start_run("scripted", {"n": [1, None, "x", True]}, labels={"a": "b"}, scorers=["s"])
    first, second = service.starts
    assert run.run_id == "run-1"
    assert first == second
    assert len(first.request_id) == 36
    assert client.from_value(first.input) == {"n": [1, None, "x", True]}
    assert first.scorers[0].scorer_id == "s"


async def test_run_starts_and_watches(service: ScriptedAgentService, address: str) -> None:
    """`run` gives the events of the run it started, and its fold the final view."""
    service.parts.append(play(4, ok=True))
    async with AgentClient(address, resume=QUICK) as agents, agents.run("scripted", "hello") as stream:
        view = await stream.fold()
    assert stream.run is not None
    assert stream.run.run_id == stream.run_id == view.run_id == "run-1"
    assert view.text == "".join(f"{n} " for n in range(2, 12))
    assert view.ended


async def test_sync_run_starts_and_watches(service: ScriptedAgentService, address: str) -> None:
    """The synchronous client does the same."""

    def run() -> client.RunView:
        with sync.AgentClient(address, resume=QUICK) as agents, agents.run("scripted", "hello") as stream:
            return stream.fold()

    service.parts.append(play(4, ok=True))
    view = await asyncio.to_thread(run)
    assert view.last_sequence == 12
    assert len(service.starts) == 1


async def test_errors_are_not_repeated(service: ScriptedAgentService, address: str) -> None:
    """A wrong request is answered once."""
    service.unary += [fail(errors.AgentNotFound("no agent 'x'", agent_id="x"))]
    async with AgentClient(address, resume=QUICK) as agents:
        with pytest.raises(errors.AgentNotFound, match="no agent 'x'") as raised:
            await agents.start_run("x")
    assert raised.value.metadata == {"agent_id": "x", "code": "NOT_FOUND"}
    assert len(service.starts) == 1


async def test_unreachable() -> None:
    """A service that is not there is Unavailable within the time-out."""
    async with AgentClient(f"127.0.0.1:{free_port()}", timeout=0.3, resume=QUICK) as agents:
        with pytest.raises(errors.Unavailable):
            await agents.get_run("run-1")


async def test_silent_service(service: ScriptedAgentService, address: str) -> None:
    """A service that does not answer is Unavailable, with the limit in the message."""

    async def wait(context: Context) -> None:
        await asyncio.Event().wait()

    service.unary += [wait] * 9
    async with AgentClient(address, timeout=0.3, resume=QUICK) as agents:
        with pytest.raises(errors.Unavailable, match="did not answer within"):
            await agents.start_run("scripted")
    assert len(service.starts) > 1


async def test_pages(service: ScriptedAgentService, address: str) -> None:
    """Lists fetch page after page, and events resume after a cursor."""
    async with AgentClient(address, resume=QUICK) as agents:
        runs = [run.run_id async for run in agents.list_runs(page_size=2)]
        events = [event.sequence async for event in agents.list_run_events("run-1", after="e1-3", page_size=4)]
    assert runs == [f"run-{n}" for n in range(5)]
    assert events == list(range(4, 13))


async def test_metadata_is_asked_for_at_every_call(service: ScriptedAgentService, address: str) -> None:
    """A token that changes is sent as it is at the time of each connection."""
    tokens = iter(["one", "two"])
    service.parts.append(play(4, ok=True))
    async with AgentClient(address, resume=QUICK, metadata=lambda: [("authorization", next(tokens))]) as agents:
        async for _ in agents.watch("run-1"):
            pass
    assert [sent["authorization"] for sent in service.metadata] == ["one", "two"]


async def test_closed_client(address: str) -> None:
    """A closed client says so."""
    agents = AgentClient(address)
    await agents.close()
    with pytest.raises(RuntimeError, match="closed"):
        await agents.get_run("run-1")


async def test_status_without_details(service: ScriptedAgentService, address: str) -> None:
    """A status from something that knows no ErrorInfo still becomes the nearest error."""

    async def abort(context: Context) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")

    service.unary.append(abort)
    async with AgentClient(address, resume=QUICK) as agents:
        with pytest.raises(errors.NotFound, match="nothing here"):
            await agents.start_run("scripted")


async def test_no_threads_of_its_own(service: ScriptedAgentService, address: str) -> None:
    """The asynchronous client starts no thread beside gRPC's poller, which the first call of a process starts."""
    async with AgentClient(address, resume=QUICK) as agents:
        await agents.start_run("scripted")
        before = set(threading.enumerate())
        async with agents.watch("run-1") as stream:
            await anext(stream)
            assert set(threading.enumerate()) == before


@pytest.mark.parametrize("pair", [(AgentClient, sync.AgentClient), (ScorerClient, sync.ScorerClient)])
def test_both_clients_are_alike(pair: tuple[type, type]) -> None:
    """The two clients have the same methods with the same parameters."""
    asynchronous, synchronous = (
        {name: list(inspect.signature(value).parameters) for name, value in vars(kind).items() if callable(value)}
        for kind in pair
    )
    public = {name for name in asynchronous if not name.startswith("_")}
    assert public == {name for name in synchronous if not name.startswith("_")}
    assert all(asynchronous[name] == synchronous[name] for name in public)


def test_import_is_light() -> None:
    """Importing the client loads no command line, no terminal library, no service, no store."""
    code = "import sys, runwire.client, runwire.client.sync; print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    unwanted = {
        "rich",
        "click",
        "agent_service",
        "scorer_service",
        "runwire.connect",
        "runwire.rpc",
        "pydantic",
        "sqlite3",
    }
    assert not unwanted & loaded


def test_base_install_is_small() -> None:
    """Without extras, the package asks for gRPC, protobuf and what the command line needs, and nothing else."""
    wanted = {requirement for requirement in metadata.requires("runwire") or [] if "extra ==" not in requirement}
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in wanted} == {
        "grpcio",
        "grpcio-status",
        "googleapis-common-protos",
        "protobuf",
        "click",
        "rich",
    }


def test_give_up_is_off_without_a_limit() -> None:
    """A policy without a limit never gives up by itself."""
    delays = Delays(ResumePolicy(give_up_seconds=None))
    assert delays.delay(errors.Unavailable("no", 0.0), 0.0) <= 0.05
    assert delays.delay(errors.Unavailable("no", 0.0), 1e9) <= 0.08


def test_delays() -> None:
    """Delays have full jitter under a bound that grows to a limit, on top of what the service asks for; only progress
    resets them."""
    bounds: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0.0
        bounds.append(high)
        return high

    delays = Delays(ResumePolicy(), uniform)
    asked = errors.Unavailable("no", 3.0)
    drawn = [delays.delay(asked, 0.0) for _ in range(14)]
    delays.heard()
    delays.delay(asked, 0.0)
    delays.progressed()
    delays.delay(asked, 0.0)
    assert bounds[:3] == pytest.approx([0.05, 0.08, 0.128])
    assert bounds[13:] == [10.0, 10.0, 0.05]
    assert drawn == [3.0 + bound for bound in bounds[:14]]
