"""Events as Server-Sent Events: every event once, in order, through every cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway import sse
from gateway.events import Place, place_of
from runwire.errors import CursorMalformed
from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess, Message, messages

STREAM = {"Accept": "text/event-stream"}
COUNT = 400


def read(http: httpx.Client, path: str, last_id: str = "", most: int | None = None) -> list[Message]:
    """Messages after `last_id`: all to the end, or the first `most` before the connection is cut."""
    taken: list[Message] = []
    headers = {**STREAM, **({"Last-Event-ID": last_id} if last_id else {})}
    with http.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200, stream.read()
        for message in messages(stream.iter_lines(), last_id):
            taken.append(message)
            if len(taken) == most:
                break
    return taken


def sequences(taken: list[Message]) -> list[int]:
    return [int(each.data["sequence"]) for each in taken if each.event == "message"]


def test_every_place_is_exact(http: httpx.Client, start: Callable[..., str]) -> None:
    """A reader that comes back with the id of any message gets every event after it, and only these."""
    run_id = start("ticker", {"count": 30, "interval_ms": 0})
    path = f"/v1/runs/{run_id}/events"
    whole = read(http, path)
    assert sequences(whole) == list(range(1, len(whole)))
    assert whole[-1].event == "end"
    for number, message in enumerate(whole[:-1], 1):
        assert read(http, path, message.id) == whole[number:]


def test_after_the_end_nobody_comes_back(http: httpx.Client, start: Callable[..., str]) -> None:
    """A browser that opens the stream again after its end is told to stop."""
    path = f"/v1/runs/{start('ticker', {'count': 1, 'interval_ms': 0})}/events"
    last = read(http, path)[-1]
    assert http.get(path, headers={**STREAM, "Last-Event-ID": last.id}).status_code == 204


def test_random_cuts(http: httpx.Client, start: Callable[..., str]) -> None:
    """A live run read through a hundred cuts at random places is the run: nothing missing, nothing twice."""
    run_id = start("ticker", {"count": COUNT, "interval_ms": 2})
    path, chance = f"/v1/runs/{run_id}/events", random.Random(17)
    taken: list[Message] = []
    while not taken or taken[-1].event != "end":
        taken += read(http, path, taken[-1].id if taken else "", chance.randrange(1, 9))
    assert sequences(taken) == list(range(1, len(taken)))
    assert "".join(each.data["textDelta"]["text"] for each in taken if "textDelta" in each.data) == "tick " * COUNT


def test_gateways_and_services_die(agent_service: AgentProcess, start: Callable[..., str], http: httpx.Client) -> None:
    """A reader that goes from one killed gateway to the next, while the service is killed too, gets the log."""
    run_id = start("ticker", {"count": COUNT, "interval_ms": 5})
    taken: list[Message] = []
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as gateway:
        for kills in range(4):
            gateway.start()
            with httpx.Client(base_url=gateway.url, timeout=60.0) as client:
                if kills < 3:
                    taken += _until_killed(client, run_id, taken, gateway, agent_service if kills == 1 else None)
                else:
                    taken += read(client, f"/v1/runs/{run_id}/events", taken[-1].id)
            if taken[-1].event == "end":
                break
    assert taken[-1].event == "end"
    shown = sequences(taken)
    assert shown == list(range(1, len(shown) + 1))


def _until_killed(
    client: httpx.Client, run_id: str, taken: list[Message], gateway: GatewayProcess, service: AgentProcess | None
) -> list[Message]:
    """What arrives until the gateway is killed, which is after 20 messages; before them the service is killed too."""
    more: list[Message] = []
    last = taken[-1].id if taken else ""
    if service is not None:
        service.kill()
        service.start()
    with client.stream("GET", f"/v1/runs/{run_id}/events", headers={**STREAM, "Last-Event-ID": last}) as stream:
        try:
            for message in messages(stream.iter_lines(), last):
                more.append(message)
                if len(more) == 20:
                    gateway.kill()
                if message.event == "end":
                    break
        except httpx.TransportError:
            pass
    if gateway.process is not None and len(more) < 20:
        gateway.kill()
    return more


def test_a_gateway_that_drains(agent_service: AgentProcess, http: httpx.Client, start: Callable[..., str]) -> None:
    """SIGTERM ends streams after a whole message, and the process soon after; the next gateway continues."""
    run_id = start("asker", "why?")
    path, taken = f"/v1/runs/{run_id}/events", list[Message]()
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as gateway:
        gateway.start()
        with (
            httpx.Client(base_url=gateway.url, timeout=20.0) as client,
            client.stream("GET", path, headers=STREAM) as stream,
        ):
            for message in messages(stream.iter_lines()):
                taken.append(message)
                if "runSuspended" in message.data:
                    assert gateway.process is not None
                    gateway.process.terminate()
        assert taken[-1].event == "message"
        assert gateway.process is not None
        assert gateway.process.wait(timeout=10) in (0, -15)
    wanted = http.get(f"/v1/runs/{run_id}").json()["pending"][0]["requestId"]
    http.post(f"/v1/runs/{run_id}/answers", json={"answers": [{"requestId": wanted, "data": "Ada"}]})
    taken += read(http, path, taken[-1].id)
    assert sequences(taken) == list(range(1, len(taken)))
    assert taken[-1].event == "end"


def test_many_runs_in_one_stream(http: httpx.Client, start: Callable[..., str]) -> None:
    """Three runs over one connection, cut at every message: each run's log is whole, and the stream ends after all."""
    runs = [start("ticker", {"count": 20, "interval_ms": 3}) for _ in range(3)]
    path = "/v1/events?" + "&".join(f"run={run_id}" for run_id in runs)
    seen: dict[str, list[int]] = {run_id: [] for run_id in runs}
    ended: set[str] = set()
    last_id = ""
    while len(ended) < 3:
        for message in read(http, path, last_id, 2):
            last_id = message.id
            if message.event == "end":
                ended.add(message.data["runId"])
            else:
                seen[message.data["runId"]] += [int(event["sequence"]) for event in message.data["events"]]
    for taken in seen.values():
        assert taken == list(range(1, len(taken) + 1))
        assert len(taken) > 20
    assert http.get(path, headers={**STREAM, "Last-Event-ID": last_id}).status_code == 204


def test_one_of_many_runs_is_wrong(http: httpx.Client, start: Callable[..., str]) -> None:
    """Fifty runs are looked at before their stream begins: the first that is wrong is the answer."""
    run_id = start("ticker", {"count": 1, "interval_ms": 0})
    others = [f"none-{number}" for number in range(49)]
    path = "/v1/events?" + "&".join(f"run={each}" for each in [run_id, *others])
    answer = http.get(path, headers=STREAM)
    assert answer.status_code == 404
    assert "none-0" in answer.json()["detail"]


def test_a_quiet_stream_is_heard(http: httpx.Client, start: Callable[..., str]) -> None:
    """While nothing happens a comment is sent, so that no proxy cuts the stream."""
    run_id = start("asker", "slowly")
    with http.stream("GET", f"/v1/runs/{run_id}/events", headers=STREAM) as stream:
        assert any(line.startswith(":") for line in _until_comment(stream.iter_lines()))
    http.post(f"/v1/runs/{run_id}/cancel")


def _until_comment(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line.startswith(":"):
            return


@pytest.mark.parametrize(
    "cursor, status, reason",
    [("%%%", 400, "CURSOR_MALFORMED"), ("abc", 400, "CURSOR_MALFORMED"), ("a,b", 400, "CURSOR_MALFORMED")],
)
def test_a_wrong_place(http: httpx.Client, start: Callable[..., str], cursor: str, status: int, reason: str) -> None:
    """An id that is none is an error with a status, never a stream from somewhere."""
    run_id = start("ticker", {"count": 1, "interval_ms": 0})
    answer = http.get(f"/v1/runs/{run_id}/events", headers=STREAM, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_a_place_of_another_run(http: httpx.Client, start: Callable[..., str]) -> None:
    """The id of another run's stream is refused."""
    mine, other = (start("ticker", {"count": 1, "interval_ms": 0}) for _ in range(2))
    last_id = read(http, f"/v1/runs/{other}/events")[0].id
    answer = http.get(f"/v1/runs/{mine}/events", headers={**STREAM, "Last-Event-ID": last_id})
    assert answer.status_code == 400
    assert answer.json()["reason"] == "CURSOR_MISMATCH"


def test_a_message_is_lines_for_everybody() -> None:
    """No reader finds a line end inside of a message, by whatever it divides lines."""
    said = "a\u0085b\u2028c\u2029d\x0b\x1cé\U0001f600"
    lines = sse.message(json.dumps({"text": said}, ensure_ascii=False), id="x").decode().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[1].removeprefix("data: "))["text"] == said


@pytest.mark.parametrize("place", [Place(), Place("abc-_"), Place("abc", 17), Place("abc", ended=True)])
def test_places_are_read_back(place: Place) -> None:
    """What is written as an id is read back as the same place."""
    assert place_of(str(place)) == place


@pytest.mark.parametrize("text", ["a b", "a.", "a.x", "a.-1", "a.1.2", "ä", "a." + "9" * 19])
def test_what_is_no_place(text: str) -> None:
    """Anything else is no place."""
    with pytest.raises(CursorMalformed):
        place_of(text)
