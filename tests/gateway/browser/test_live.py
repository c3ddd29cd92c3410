"""Runs in a browser: what is shown live is the log, through kills of the gateway, and its forms do what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from google.protobuf import json_format
from playwright.sync_api import Page, expect

from runwire.agent.v1 import run_event_pb2
from runwire.fold import fold
from tests.client.processes import AgentProcess, ScorerProcess
from tests.gateway.agents import HOSTILE, LARGE_CHARACTERS
from tests.gateway.browser.conftest import PATIENCE_MS, text_of
from tests.gateway.conftest import GatewayProcess
from tests.gateway.test_streams import read

pytestmark = pytest.mark.browser

TEXT = "#log .step:not(.superseded) > .text"


def said(http: httpx.Client, run_id: str) -> str:
    """The text of the whole log, without what was said again after a crash."""
    taken = [each.data for each in read(http, f"/v1/runs/{run_id}/events") if each.event == "message"]
    return fold(json_format.ParseDict(each, run_event_pb2.RunEvent()) for each in taken).text


def test_watched_while_the_gateway_dies(
    page: Page,
    http: httpx.Client,
    start: Callable[..., str],
    agent_service: AgentProcess,
    scorer_service: ScorerProcess,
) -> None:
    """A page that stays open while its gateway is killed twice, and the second time the service too, shows the log."""
    run_id = start("ticker", {"count": 300, "interval_ms": 20})
    with GatewayProcess(agent_service.address, scorer_service.address) as gateway:
        gateway.start()
        page.goto(f"{gateway.url}/runs/{run_id}")
        for kill in (1, 2):
            page.wait_for_function(f"() => document.querySelector('#log').textContent.length > {kill * 200}")
            gateway.kill()
            expect(page.locator("#connection")).to_have_text("connecting again ...")
            if kill == 2:
                agent_service.kill()
                agent_service.start()
            gateway.start()
        expect(page.locator("#state")).to_have_text("succeeded", timeout=PATIENCE_MS * 2)
        assert text_of(page, TEXT) == said(http, run_id)
        page.reload()
        expect(page.locator("#state")).to_have_text("succeeded")
        page.wait_for_function("() => !document.querySelector('#connection').textContent")
        assert text_of(page, TEXT) == said(http, run_id)


def test_an_approval_is_answered(page: Page, gateway: GatewayProcess, start: Callable[..., str]) -> None:
    """A run that comes to wait while the page is open shows what it wants to do; what is approved happens."""
    run_id = start("careful", "clean up")
    page.goto(f"{gateway.url}/runs/{run_id}")
    expect(page.locator(".pending h2")).to_have_text("May it call delete?")
    expect(page.locator(".pending pre").first).to_contain_text("/everything")
    page.get_by_label("Other arguments").fill('{"path": "/tmp/only"}')
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#state")).to_have_text("succeeded")
    expect(page.locator("#log")).to_contain_text("It says: deleted /tmp/only")
    expect(page.locator(".pending")).to_have_count(0)


def test_a_conversation_is_held(page: Page, gateway: GatewayProcess) -> None:
    """A conversation is begun, held and ended by the keyboard; what is said stays in place."""
    page.goto(f"{gateway.url}/runs")
    page.locator(".start summary").press("Enter")
    page.locator(".start select").select_option("echo")
    page.get_by_label("Input").fill("one")
    page.get_by_label("conversation").check()
    page.get_by_role("button", name="Start", exact=True).press("Enter")
    expect(page.locator("#log")).to_contain_text("you said one")
    for word in ("two", "three <b>"):
        page.get_by_label("Message").fill(word)
        page.get_by_role("button", name="Send").press("Enter")
        expect(page.locator("#log")).to_contain_text(f"you said {word}")
        expect(page.get_by_label("Message")).to_have_value("")
    assert text_of(page, "#log .message .text") == "onetwothree <b>"
    page.get_by_role("button", name="End the conversation").press("Enter")
    expect(page.locator("#state")).to_have_text("succeeded")
    expect(page.get_by_label("Message")).to_have_count(0)


def test_a_failed_scorer_run_is_redriven(
    page: Page, gateway: GatewayProcess, start: Callable[..., str], tmp_path: Path
) -> None:
    """Failed scorer runs are found by filter, counted first, and score after a redrive once their fault is mended."""
    mended = tmp_path / "mended"
    scorers = [{"scorerId": "moody", "options": {"file": str(mended)}}]
    run_id = start("ticker", {"count": 1, "interval_ms": 0}, scorers=scorers)
    address = f"{gateway.url}/scorer-runs?scorer=moody&state=failed&run={run_id}"
    page.goto(address)
    while not page.locator("tbody a").count():
        page.goto(address)
    expect(page.locator("tbody")).to_contain_text("<b>not today</b>")
    mended.touch()
    page.get_by_role("button", name="Redrive all of these").click()
    expect(page.locator("main")).to_contain_text("1 scorer run")
    page.get_by_role("button", name="Redrive").click()
    page.goto(f"{gateway.url}/runs/{run_id}")
    while "0.75" not in (page.locator("table").first.text_content() or ""):
        page.reload()
    expect(page.locator("main")).to_contain_text("well then")


def test_hostile_output_stays_text(
    page: Page, http: httpx.Client, gateway: GatewayProcess, start: Callable[..., str]
) -> None:
    """Script, markup and control characters, and 5 MB of them, are shown as they were said, and nothing of it runs."""
    run_id = start("hostile", "large", labels={"team": "<b>"})
    page.goto(f"{gateway.url}/runs/{run_id}")
    expect(page.locator("#state")).to_have_text("succeeded", timeout=PATIENCE_MS * 2)
    shown = text_of(page, TEXT)
    assert shown == said(http, run_id)
    assert len(shown) > LARGE_CHARACTERS
    for selector in ("#log .reasoning", "#output"):
        assert text_of(page, selector) == HOSTILE
    assert HOSTILE in text_of(page, "#log .tool pre")
    assert page.title() == f"Run {run_id} · Runwire"
    assert page.locator("#log :is(script, img, a, b)").count() == 0
