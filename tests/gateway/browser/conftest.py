"""A real browser: Chromium, without a window. Where there is none its tests are skipped aloud."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.servers import MISSING

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 20_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"{MISSING} chromium: none of {', '.join(NAMES)} on PATH")
    with sync_playwright() as playwright:
        # As root, which tests may be, Chromium has no sandbox; the pages are ours.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own; the test fails if anything is refused by the content security policy, or if a script fails."""
    problems: list[str] = []
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    yield page
    context.close()
    assert problems == []


def text_of(page: Page, selector: str) -> str:
    """What the elements hold, in order, as text nodes and not as it is laid out."""
    said: Any = page.eval_on_selector_all(selector, "all => all.map(each => each.textContent).join('')")
    return str(said)
