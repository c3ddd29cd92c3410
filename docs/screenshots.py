"""Takes the pictures of docs/dashboard.md from real services: `make screenshots`. Needs a Chromium on PATH.

Both services and a gateway start, with the agents of the demonstration and of tests/gateway; runs, a conversation, an
approval and scores are made, and their pages are taken in light, in dark, and as a phone has them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Page, sync_playwright

from tests.client.processes import AgentProcess, ScorerProcess
from tests.gateway.conftest import GatewayProcess
from tests.gateway.test_streams import read

IMAGES: Final = Path(__file__).parent / "images"
LOOKS: Final[Any] = (("light", 1100, "", ()), ("dark", 1100, "-dark", ("runs",)), ("light", 390, "-phone", ("run",)))
ASKED: Final = (
    "What is a cursor?",
    "How does a run survive a crash?",
    "What is a scorer?",
    "What is an attempt?",
    "How are streams resumed?",
    "What does the gateway do?",
    "What is a conversation?",
    "How long are runs kept?",
)
_AGENTS: Final = "agent_service.demo,tests.cli.sample_agents,tests.gateway.agents"


class Stage:
    """Makes what there is to see."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def start(self, agent: str, input: Any, **more: Any) -> str:
        answer = self._http.post(f"/v1/agents/{agent}/runs", json={"input": input, **more})
        answer.raise_for_status()
        return str(answer.json()["runId"])

    def done(self, run_id: str) -> str:
        read(self._http, f"/v1/runs/{run_id}/events")
        return run_id

    def scored(self, run_id: str) -> None:
        path = f"/v1/runs/{run_id}/scorer-runs/events"
        with self._http.stream("GET", path, headers={"Accept": "text/event-stream"}) as stream:
            stream.read()

    def wait(self, path: str, field: str) -> Any:
        while not (found := self._http.get(path).json().get(field)):
            pass
        return found


def pages(stage: Stage) -> dict[str, str]:
    """Names of pictures, and the pages that they are taken of."""
    answered = [stage.done(stage.start("librarian", each, labels={"team": "docs"})) for each in ASKED]
    stage.done(stage.start("broken", "x"))
    stage.done(stage.start("tooled", "resumable streams", labels={"team": "search"}))
    waits, _ = stage.start("careful", "clean up"), stage.start("echo", "Good morning", conversation={})
    stage.wait(f"/v1/runs/{waits}", "pending")
    stage.scored(answered[-1])
    return {
        "runs": "/runs",
        "run": f"/runs/{answered[0]}",
        "approval": f"/runs/{waits}",
        "scorers": "/scorers",
        "scorer": "/scorers/keyword-coverage",
    }


def take(page: Page, url: str, file: Path) -> None:
    page.goto(url)
    if page.locator("#log").count():
        page.wait_for_function("() => document.querySelector('#log').childElementCount > 0")
    page.screenshot(path=file)


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("screenshots: neither chromium nor google-chrome is on PATH", file=sys.stderr)
        return 2
    IMAGES.mkdir(exist_ok=True)
    with (
        AgentProcess(_AGENTS) as agents,
        ScorerProcess(agents.start().store) as scorers,
        GatewayProcess(agents.address, scorers.start().address) as gateway,
        httpx.Client(base_url=gateway.start().url, timeout=30.0) as http,
        sync_playwright() as playwright,
    ):
        found = pages(Stage(http))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme, width, suffix, names in LOOKS:
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 760})
            for name in names or found:
                take(context.new_page(), gateway.url + found[name], IMAGES / f"{name}{suffix}.png")
            context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
