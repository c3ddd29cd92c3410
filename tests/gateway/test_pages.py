"""The pages, as they leave the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import messages
from tests.gateway.test_streams import read

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x07"


@pytest.fixture
def hostile(http: httpx.Client, start: Callable[..., str]) -> str:
    """A run whose input, label and error say what no page should execute."""
    run_id = start("broken", HOSTILE, labels={"team": "<b>"})
    read(http, f"/v1/runs/{run_id}/events")
    return run_id


def test_what_a_model_says_is_text(http: httpx.Client, hostile: str) -> None:
    """Markup in what is shown is escaped, in the list and on the page of the run."""
    for page in (http.get(f"/runs/{hostile}"), http.get("/runs")):
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert "<b>" not in page.text
    assert "&lt;script&gt;alert(1)" in http.get(f"/runs/{hostile}").text


@pytest.mark.parametrize(
    "path", ["/runs", "/scorers", "/scorer-runs", "/workers", "/sign-in", "/runs/none", "/scorer-runs/none"]
)
def test_only_our_own_script_runs(http: httpx.Client, path: str) -> None:
    """Every page, also one that tells of an error, forbids scripts and styles that are not files of ours."""
    page = http.get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert " onclick" not in page.text
    assert page.status_code == (404 if path.endswith("none") else 200)


def test_a_filtered_list_has_an_address(http: httpx.Client, start: Callable[..., str]) -> None:
    """The address of a filtered list shows the same list to somebody else, and an empty field filters nothing."""
    run_id = start("ticker", {"count": 1, "interval_ms": 0}, labels={"mark": "ours"})
    start("ticker", {"count": 1, "interval_ms": 0})
    page = http.get("/runs?agent=ticker&state=&label=mark%3Dours").text
    assert page.count('class="id"') == 1
    assert run_id in page
    assert http.get("/runs?state=odd").status_code == 400


def test_a_run_is_started_answered_and_cancelled(http: httpx.Client) -> None:
    """The forms of the pages do what their buttons say, and lead back to the run."""
    started = http.post("/runs", data={"agent": "asker", "input": "who?"})
    assert started.status_code == 303
    path = started.headers["location"]
    while "Needs <code>name</code>" not in (page := http.get(path).text):
        pass
    wanted = page.split('name="request" value="')[1].split('"')[0]
    answered = http.post(f"{path}/answer", data={"request": wanted, "decision": "supply", "text": "Ada"})
    assert answered.headers["location"] == path
    read(http, f"/v1{path}/events")
    assert "hello Ada" in http.get(path).text
    assert http.post(f"{path}/cancel").status_code == 303
    assert http.post(f"{path}/answer", data={"request": wanted, "decision": "odd"}).status_code == 400


def test_a_conversation_is_held(http: httpx.Client) -> None:
    """A run that is kept open has a box for messages, each sent once however often, and ends when it is told to."""
    path = http.post("/runs", data={"agent": "echo", "input": "one", "conversation": "yes"}).headers["location"]
    assert 'name="message"' in http.get(path).text
    for _ in range(2):
        told = http.post(f"{path}/messages", data={"message": "two", "mode": "queue", "request_id": "once"})
        assert told.headers["location"] == path
    assert http.post(f"{path}/messages", data={"message": "two", "mode": "odd"}).status_code == 400
    http.post(f"{path}/end")
    said = [each.data for each in read(http, f"/v1{path}/events")]
    assert "".join(each["textDelta"]["text"] for each in said if "textDelta" in each) == "you said oneyou said two"
    turns = http.get(f"/v1{path}/turns").json()["turns"]
    assert [(turn["turn"], turn["message"], turn["state"]) for turn in turns] == [
        (1, "one", "RUN_STATE_SUCCEEDED"),
        (2, "two", "RUN_STATE_SUCCEEDED"),
    ]
    assert 'name="message"' not in http.get(path).text


def test_a_redrive_says_how_many_first(http: httpx.Client) -> None:
    """A redrive by filter names its states, counts, and does it when somebody is sure."""
    assert http.post("/scorer-runs").status_code == 400
    counted = http.post("/scorer-runs?state=failed")
    assert "0 scorer runs fit" in counted.text
    assert "0 scorer runs are waiting again" in http.post("/scorer-runs?state=failed", data={"sure": "yes"}).text


def test_signing_in(http: httpx.Client) -> None:
    """The token lies in a cookie that no script and no other site gets, and signing out removes it."""
    answer = http.post("/sign-in", data={"token": "rw_secret"})
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "max-age=0" in http.post("/sign-out").headers["set-cookie"].lower()
    assert http.post("/sign-in", data={"token": " "}).status_code == 400


def test_a_scorer_is_paused_and_resumed(http: httpx.Client) -> None:
    """The buttons of the scorers' page hold a scorer's work and let it continue."""
    path = "/scorers/content-similarity"
    assert http.post(f"{path}/pause").status_code == 303
    assert 'action="/scorers/content-similarity/resume"' in http.get("/scorers").text
    assert http.post(f"{path}/resume").status_code == 303
    assert http.post(f"{path}/odd").status_code == 400


def test_a_failed_run_is_retried(http: httpx.Client, start: Callable[..., str]) -> None:
    """The button of a failed run continues it in another: one, however often the form is sent."""
    run_id = start("broken", "x")
    read(http, f"/v1/runs/{run_id}/events")
    assert ">Retry</button>" in http.get(f"/runs/{run_id}").text
    forks = {http.post(f"/runs/{run_id}/fork", data={"request_id": "once"}).headers["location"] for _ in range(2)}
    assert len(forks) == 1
    [fork] = forks
    assert f'href="/runs/{run_id}"' in http.get(fork).text
    assert http.post(f"/runs/{run_id}/fork", data={"step": "odd"}).status_code == 400


def test_the_scores_of_a_scorer(http: httpx.Client, start: Callable[..., str], tmp_path: Path) -> None:
    """The page of a scorer shows its scores by version as a picture, and in a table beside it."""
    (tmp_path / "there").touch()
    scorers = [{"scorerId": "moody", "options": {"file": str(tmp_path / "there")}}]
    run_id = start("ticker", {"count": 1, "interval_ms": 0}, scorers=scorers)
    path = f"/v1/runs/{run_id}/scorer-runs/events"
    with http.stream("GET", path, headers={"Accept": "text/event-stream"}) as stream:
        assert [each.event for each in messages(stream.iter_lines())][-1] == "end"
    page = http.get("/scorers/moody").text
    assert "Scores of version 1" in page
    assert "<svg" in page
    assert '<td class="number">0.75</td>' in page
    assert "no score yet" in http.get("/scorers/tone-consistency").text
