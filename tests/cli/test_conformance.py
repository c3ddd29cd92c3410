"""The conformance kit: green for right clients, red for wrong ones, one line for each fault."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runwire.conformance.proxy import Break, Fault, FaultProxy, Messages
from runwire.conformance.transcript import Ended, Event, Failed, Handled, Line, Saved, Session, Stuck, Transcript
from runwire.conformance.validators import VALIDATORS
from tests.cli.conftest import Runwire
from tests.cli.wrong_client import FAULTS
from tests.client.processes import ROOT, AgentProcess
from tests.identity.secured import Secured
from tests.servers import free_port

WRONG = f"env PYTHONPATH={ROOT} {sys.executable} -m tests.cli.wrong_client"
EXPECTED = {
    "advance": "Atomic",
    "ok-is-end": "EndsOnce",
    "epoch": "SameLog",
    "join": "SameLog",
    "restart": "Unique",
    "skip": "Dense",
    "dead-cursor": "SameLog",
    "babble": "EndsOnce",
}


def failed(runwire: Runwire, command: str, *arguments: str) -> list[str]:
    """The rules that a client breaks."""
    result = runwire("conformance", "--command", command, "--seed", "7", "--json", "--events", "40", *arguments)
    *rules, summary = result.lines
    broken = [rule["rule"] for rule in rules if not rule["passed"]]
    assert result.code == (1 if broken else 0), result.err
    assert summary["breaks"] or broken
    return broken


@pytest.mark.parametrize("adapter", ["", "--sync"], ids=["async", "sync"])
def test_python_clients(runwire: Runwire, adapter: str) -> None:
    """The Python clients pass."""
    assert failed(runwire, f"{sys.executable} -m runwire.conformance.adapter {adapter}", "--cuts", "30") == []


@pytest.mark.chaos  # half a minute
def test_over_tls(runwire: Runwire, tmp_path: Path) -> None:
    """Over TLS and with a token a client passes as many breaks: the kit still sees where messages end."""
    secured = Secured(tmp_path)
    with secured.service as service:
        there = ("--target", service.start().address, "--tenant", secured.tenant, *secured.options)
        assert failed(runwire, f"{sys.executable} -m runwire.conformance.adapter", "--cuts", "15", *there) == []


def test_right_client(runwire: Runwire) -> None:
    """A right client that is not ours passes: what makes the wrong ones fail is their fault alone."""
    assert failed(runwire, f"{WRONG} none", "--cuts", "30") == []


# The rules that these break have their own tests below, on transcripts.
SLOW = ("restart", "skip", "dead-cursor", "babble")


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[pytest.mark.chaos] if fault in SLOW else []) for fault in EXPECTED]
)
def test_wrong_clients(runwire: Runwire, fault: str) -> None:
    """Each deliberate fault is found, under the rule that it breaks."""
    assert EXPECTED[fault] in failed(runwire, f"{WRONG} {fault}", "--cuts", "20", "--patience", "3")


def test_every_fault_is_expected() -> None:
    """No fault of the wrong client is left untested."""
    assert {"none", *EXPECTED} == set(FAULTS)


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--command", "/no/such/program"], "cannot start '/no/such/program'"),
        (["--command", ""], "the command is empty"),
        (["--command", "'"], "No closing quotation"),
        (["--command", "true", "--agent", "nobody"], "has no agent 'nobody'"),
        (["--command", "true", "--cuts", "0"], "0 is not in the range"),
        ([], "Missing option '--command'"),
    ],
)
def test_bad_input(runwire: Runwire, arguments: Sequence[str], text: str) -> None:
    """What the user got wrong is one line and exit code 2."""
    result = runwire("conformance", *arguments)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert text in result.err


def test_unreachable(runwire: Runwire) -> None:
    """A service that is not there is one line and exit code 3."""
    result = runwire("conformance", "--command", "true", "--target", f"127.0.0.1:{free_port()}")
    assert result.code == 3
    assert result.err.count("\n") == 1


def test_client_that_is_none(runwire: Runwire) -> None:
    """A program that ends, or says something else, is reported and not waited for."""
    assert failed(runwire, "true") == ["Resumable", "SameLog"]
    assert failed(runwire, "echo hello") == ["Resumable", "SameLog"]


LOG = [Event(sequence, 1, 1, "text_delta", "x") for sequence in range(1, 5)]
E1, E2, E3, E4 = LOG


def handled(*events: Event) -> list[Line]:
    return [line for event in events for line in (event, Handled(event.sequence))]


@pytest.mark.parametrize(
    "rule, lines, start",
    [
        ("Ordered", handled(E1, E3, E2), 0),
        ("Unique", handled(E1, E1), 0),
        ("Unique", handled(E2), 2),
        ("Dense", handled(E1, E3), 0),
        ("Dense", handled(E4), 2),
        ("Atomic", [*handled(E1), E2, Saved("c", 2)], 0),
        ("Atomic", [Saved("c", 3), *handled(E1)], 0),
        ("Resumable", [Saved("rubbish", -1)], 0),
        ("Resumable", handled(E4), 2),
        ("Resumable", [Failed("CURSOR_EXPIRED")], 0),
        ("Bookmarkable", [Saved("c", 2), *handled(E2)], 1),
        ("EndsOnce", [*handled(E1, E2), Ended("x")], 0),
        ("EndsOnce", [*handled(*LOG), Ended("x"), Ended("x")], 0),
        ("EndsOnce", [*handled(*LOG), Stuck(30)], 0),
        ("SameForAll", handled(Event(1, 1, 1, "text_delta", "y")), 0),
        ("SameForAll", handled(Event(9, 1, 1, "text_delta", "x")), 0),
        ("ReadYourWrites", [Failed("RUN_NOT_FOUND")], 0),
    ],
)
def test_validators(rule: str, lines: list[Line], start: int) -> None:
    """Each validator finds its fault in a transcript, and none finds any in a right one."""
    right = Transcript("r", [Session(0, [*handled(*LOG), Saved("c", 4), Ended("x")])])
    assert not [fault for validator in VALIDATORS.values() for fault in validator(right, LOG)]
    assert list(VALIDATORS[rule](Transcript("r", [Session(start, lines)]), LOG))


@pytest.mark.parametrize("lines", [[], [*handled(E1), Ended("x")], [Stuck(30)], [Failed("CURSOR_MALFORMED")]])
def test_same_log(lines: list[Line]) -> None:
    """A refusal must be reported, by its own name."""
    refused = Transcript("r", [Session(0, lines)], expects_error="CURSOR_EPOCH_MISMATCH")
    assert list(VALIDATORS["SameLog"](refused, LOG))
    refused.sessions = [Session(0, [Failed("CURSOR_EPOCH_MISMATCH")])]
    assert not list(VALIDATORS["SameLog"](refused, LOG))


def test_messages() -> None:
    """Ends of messages are found wherever the frames cut them."""
    stream = b"".join(bytes(1) + len(body).to_bytes(4) + body for body in (b"", b"a", b"bc" * 100))
    expected = [5, 11, len(stream)]
    for size in (1, 2, 3, 7, 100, len(stream)):
        messages = Messages()
        found = [
            start + end for start in range(0, len(stream), size) for end in messages.take(stream[start : start + size])
        ]
        assert found == expected
        assert messages.count == 3


async def test_proxy_breaks_as_told(agent_service: AgentProcess) -> None:
    """Each kind of break cuts a stream after as many messages as it was told, and is seen as what it is."""
    import grpc

    from runwire.agent.v1 import agent_service_pb2 as pb
    from runwire.agent.v1 import agent_service_pb2_grpc
    from runwire.client import AgentClient

    async with AgentClient(agent_service.address) as client:
        run = await client.start_run("ticker", {"count": 20, "interval_ms": 0, "text": "x"})
        await client.watch(run.run_id).fold()

    async def watch(fault: Fault) -> tuple[int, str]:
        async with (
            FaultProxy([agent_service.address], lambda: fault).listening() as address,
            grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            request = pb.WatchRunRequest(run_id=run.run_id, max_batch_size=1)
            call = agent_service_pb2_grpc.AgentServiceStub(channel).WatchRun(request)
            count = 0
            try:
                async with asyncio.timeout(2 if fault.kind is Break.FREEZE else 20):
                    while await call.read():
                        count += 1
                return count, (await call.code()).name
            except grpc.aio.AioRpcError as error:
                return count, error.code().name
            except TimeoutError:
                return count, "silence"

    whole, status = await watch(Fault())
    assert status == "OK"
    assert whole >= 22
    assert await watch(Fault(Break.OK, 4)) == (4, "OK")
    assert await watch(Fault(Break.FREEZE, 4)) == (4, "silence")
    for kind in (Break.CLOSE, Break.RESET, Break.HALF):
        count, status = await watch(Fault(kind, 4))
        assert status == "UNAVAILABLE"
        assert count <= 4
