"""The demonstration agents: `librarian` and `ticker`."""

from importlib.metadata import PackagePath
from pathlib import Path

import pytest

from agent_service.demo import librarian, library, ticker
from agent_service.demo.library import Library, Passage, passages
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import InvalidRequest
from runwire.values import to_value
from tests.agents.stage import Stage

PAGE = """# Title

A first paragraph about cursors, which is
written over two lines.

```console
make cursors    # code is no prose, however long it may become in the end
```

## Streams

- An item about streams, which are cut in the middle and continue.
- Another item, about [stores](docs/stores.md) that `keep` what streams have said.

| a table | about streams and cursors and everything else there is |
"""


def test_cuts_pages_into_prose() -> None:
    """Paragraphs and items become passages under their heading; code and tables do not."""
    assert list(passages("page.md", PAGE)) == [
        Passage("page.md, Title", "A first paragraph about cursors, which is written over two lines."),
        Passage("page.md, Streams", "An item about streams, which are cut in the middle and continue."),
        Passage("page.md, Streams", "Another item, about stores that keep what streams have said."),
    ]


@pytest.mark.parametrize("question", ["Where is a stream cut?", "STREAMING?"])
def test_finds_what_fits_best(question: str) -> None:
    """The passage with the rarest words of the question comes first."""
    library = Library(passages("page.md", PAGE))
    assert library.search(question)[0].text.startswith("An item about streams")


def test_finds_nothing_for_unknown_words() -> None:
    """A question that shares no word with any passage has no answer."""
    assert Library(passages("page.md", PAGE)).search("Bananas?") == []


class Installed:
    """A distribution whose files lie below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: object) -> Path:
        return self.folder / str(path)


def test_an_installed_package_has_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no checkout around the code, the pages that were installed with the package are the library."""
    files = []
    for name in ("share/doc/runwire/page.md", "share/doc/runwire/gone.md", "lib/other.md"):
        files.append(PackagePath(name))
        files[-1].dist = Installed(tmp_path)  # type: ignore[assignment]
    (tmp_path / files[0].parent).mkdir(parents=True)
    (tmp_path / files[0]).write_text(PAGE, "utf-8")
    monkeypatch.setattr(library, "_ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(library.metadata, "files", lambda name: files)

    found = library.documentation.__wrapped__().search("streams")

    assert {passage.source for passage in found} == {"page.md, Streams"}


async def test_librarian_answers_with_sources() -> None:
    """It searches, then quotes what it found, word by word, with the page it is from."""
    stage = Stage(librarian)

    view = await stage.finish("How does a client resume a stream after a disconnection?")

    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    [call] = view.tool_calls
    assert call.outcome == run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
    assert ".md" in str(view.output)
    assert view.steps[2].text == view.output
    deltas = [event for event in await stage.events() if event.WhichOneof("payload") == "text_delta"]
    assert len(deltas) > 40
    assert [ref.scorer_id for ref in (await stage.run()).scorers] == ["keyword-coverage", "content-similarity"]


async def test_librarian_answers_any_question() -> None:
    """What the documentation does not know is said plainly, and the run succeeds."""
    view = await Stage(librarian).finish("Xylophon?")
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert "says nothing" in str(view.output)


async def test_ticker_ticks() -> None:
    """It emits as many deltas as asked for."""
    view = await Stage(ticker).finish({"count": 5, "interval_ms": 0, "text": "ho "})
    assert view.text == "ho ho ho ho ho "
    assert view.output == {"count": 5}


@pytest.mark.parametrize(
    "input, path",
    [
        ({"count": 0}, "input.count"),
        ({"count": 10_000_000}, "input.count"),
        ({"interval_ms": -1}, "input.interval_ms"),
        ({"text": ""}, "input.text"),
        ({"cuont": 3}, "input.cuont"),
        ("three", "input"),
    ],
)
def test_ticker_refuses_wrong_input(input: object, path: str) -> None:
    """A wrong value is named by its path before the run is accepted."""
    with pytest.raises(InvalidRequest) as refused:
        ticker.parse_input(to_value(input))  # type: ignore[arg-type]
    assert list(refused.value.violations) == [path]


def test_librarian_refuses_an_empty_question() -> None:
    """An empty prompt is refused before the run is accepted."""
    with pytest.raises(InvalidRequest):
        librarian.parse_input(to_value(""))
