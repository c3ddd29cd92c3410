"""The research agent, with a model that follows a script."""

from __future__ import annotations

import pytest

from examples.research import agent as example
from examples.research.agent import agent, research, sources_opened
from runwire.testing import call, called, scripted, serve


def report(*sources: str) -> object:
    return call("final_result", answer="Sostratus built it.", sources=list(sources))


async def test_a_report_rests_on_what_was_opened() -> None:
    """Many tools in one run, several at once; the report has the declared form, and both scorers like it."""
    look = [call("open_page", name="pharos"), call("years", name="pharos"), call("note", text="Sostratus")]
    with scripted(agent, call("search", words="Alexandria"), look, call("read_notes"), report("pharos")):
        async with serve([research], scorers=[sources_opened]) as services:
            view = await services.run("research", "Who built the lighthouse of Alexandria?")
            scores = await services.scores(view.run_id)
    assert [name for name, _ in called(view)] == ["search", "open_page", "years", "note", "read_notes"]
    assert [tool.result for tool in view.tool_calls][2:] == [[280, 100], "note 1", ["Sostratus"]]
    assert view.output == {"answer": "Sostratus built it.", "sources": ["pharos"]}
    assert {name: scored.score.value for name, scored in scores.items()} == {"sources-opened": 1, "searched-first": 1}


async def test_a_source_that_was_never_opened() -> None:
    """Both scorers say so."""
    with scripted(agent, call("open_page", name="pharos"), report("pharos", "fresnel")):
        async with serve([research], scorers=[sources_opened]) as services:
            scores = await services.scores((await services.run("research", "Who?")).run_id)
    assert scores["sources-opened"].score.value == 0.5
    assert scores["sources-opened"].score.reason == "never opened: fresnel"
    assert scores["searched-first"].score.value == 0


async def test_a_search_that_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, without a pause in tests, and the run knows how often."""
    failures = [ConnectionError("away"), ConnectionError("away"), ConnectionError("away")]

    class Web(dict[str, str]):
        def items(self):  # type: ignore[no-untyped-def]
            if failures:
                raise failures.pop()
            return super().items()

    monkeypatch.setattr(example, "PAGES", Web(example.PAGES))
    with scripted(agent, call("search", words="Fresnel"), call("open_page", name="fresnel"), report("fresnel")):
        async with serve([research]) as services:
            view = await services.run("research", "Who made the lens?")
    assert view.tool_calls[0].result == ["fresnel"]
    assert view.tool_calls[0].tries == 3


async def test_the_stand_in_speaks() -> None:
    """Without a script the example's own model answers, so that it can be tried without a key."""
    async with serve([research]) as services:
        view = await services.run("research", "Which tower was Winstanley's?")
    assert view.output is not None
    assert view.output["sources"] == ["eddystone"]  # type: ignore[call-overload, index]
