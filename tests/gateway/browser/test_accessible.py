"""Every page, held to the rules of accessibility that axe knows: in light and dark, on a desk and on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.gateway.conftest import GatewayProcess
from tests.gateway.test_streams import read
from tests.polyglot.conftest import install
from tests.servers import missing

pytestmark = pytest.mark.browser

FOLDER = Path(__file__).parent
_WIDE = """[...document.querySelectorAll("main *")].filter((each) => !each.closest(".scroll, pre")
  && each.getBoundingClientRect().right > innerWidth).map((each) => each.outerHTML.slice(0, 100))"""
LOOKS = [("light", 1280), ("dark", 390)]


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    if shutil.which("npm") is None:
        missing("npm", "not on PATH")
    install(FOLDER)
    return (FOLDER / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def paths(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every page, with something on it."""
    with httpx.Client(base_url=gateway.url, timeout=20.0) as http:

        def started(agent: str, input: Any, **more: Any) -> str:
            answer = http.post(f"/v1/agents/{agent}/runs", json={"input": input, **more})
            return str(answer.json()["runId"])

        folder = tmp_path_factory.mktemp("moody")
        (folder / "there").touch()
        scorers = [
            {"scorerId": "moody", "name": name, "options": {"file": str(folder / name)}} for name in ("there", "none")
        ]
        done = started("tooled", "x", scorers=scorers, labels={"team": "a"})
        talk = started("echo", "one", conversation={})
        waits, bad = started("careful", "clean up"), started("hostile", "")
        failed = started("broken", "x")
        for each in (done, bad, failed):
            read(http, f"/v1/runs/{each}/events")
        while not http.get(f"/v1/runs/{waits}").json().get("pending"):
            pass
        while not (failing := http.get("/v1/scorer-runs?scorer=moody&state=failed").json().get("scorerRuns")):
            pass
    runs = [f"/runs/{run_id}" for run_id in (done, talk, waits, bad, failed)]
    lists = [
        "/runs",
        "/runs?state=failed",
        "/scorers",
        "/scorers/moody",
        "/scorer-runs",
        "/scorer-runs?state=failed",
        "/workers",
    ]
    return [*lists, *runs, f"/scorer-runs/{failing[0]['scorerRunId']}", "/sign-in", "/runs/none"]


@pytest.mark.parametrize("scheme, width", LOOKS)
def test_every_page(
    browser: Browser, gateway: GatewayProcess, axe: str, paths: list[str], scheme: Any, width: int
) -> None:
    """axe finds nothing on any page, and no page is wider than the screen."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    found: dict[str, Any] = {}
    for path in paths:
        page.goto(gateway.url + path)
        if page.locator("#connection").count():
            expect(page.locator("#connection")).not_to_have_text("connecting again ...")
            page.wait_for_function("() => document.querySelector('#log').childElementCount > 0")
        page.evaluate(axe)
        result: Any = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        for each in result["violations"]:
            found[f"{path} {each['id']}"] = [node["html"][:200] for node in each["nodes"][:3]]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found[f"{path} is too wide"] = page.evaluate(_WIDE)
    context.close()
    assert found == {}
