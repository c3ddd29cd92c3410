"""A research agent with many tools: it searches, reads, notes and cites, and returns a report.

    runwire dev --agents examples.research.agent --scorers examples.research.agent
    runwire start research 'Who built the first lighthouse?' --watch

Without a key a local stand-in for a model speaks; RESEARCH_MODEL=openai:gpt-5-mini names a real one.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field

from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import UsageLimits

from agent_service import Retry, ScorerRef, durable_agent
from examples.research.stand_in import stand_in
from scorer_service import Sample, Score, scorer

PAGES = {
    "pharos": "The Pharos of Alexandria was built around 280 BC by Sostratus of Cnidus. It was about 100 metres high.",
    "eddystone": "The first Eddystone lighthouse was built by Henry Winstanley in 1698. A storm took it in 1703.",
    "fresnel": "Augustin Fresnel made a lens in 1823 that sent the light of a lamp more than 30 kilometres far.",
}
"""Stands for the web."""


class Report(BaseModel):
    """What the research found."""

    answer: str
    sources: list[str] = Field(min_length=1, description="Names of the pages that it rests on.")


@dataclass
class Desk:
    """What one attempt at a run has in front of it."""

    notes: list[str] = field(default_factory=list)


def _page(name: str) -> str:
    if name not in PAGES:
        raise ModelRetry(f"There is no page {name!r}; there are {', '.join(PAGES)}.")
    return PAGES[name]


reading: FunctionToolset[Desk] = FunctionToolset(id="reading")
counting: FunctionToolset[Desk] = FunctionToolset(id="counting")


@reading.tool_plain
async def search(words: str) -> list[str]:
    """Names of pages that have one of these words."""
    wanted = set(re.findall(r"\w{5,}", words.lower()))
    return [name for name, text in PAGES.items() if wanted & {name, *re.findall(r"\w+", text.lower())}]


@reading.tool_plain
async def open_page(name: str) -> str:
    """The text of a page."""
    return _page(name)


@reading.tool_plain
async def sentences(name: str, word: str) -> list[str]:
    """The sentences of a page that have a word."""
    return [each for each in re.split(r"(?<=\.)\s", _page(name)) if word.lower() in each.lower()]


@counting.tool_plain
async def years(name: str) -> list[int]:
    """The years that a page names."""
    return [int(year) for year in re.findall(r"\b\d{3,4}\b", _page(name))]


@counting.tool_plain
async def frequent_words(name: str) -> list[str]:
    """The words that a page has most often."""
    return [word for word, _ in Counter(re.findall(r"\w{4,}", _page(name).lower())).most_common(5)]


@counting.tool_plain
async def difference(first: int, second: int) -> int:
    """How many years lie between two."""
    return abs(first - second)


agent = Agent(
    os.environ.get("RESEARCH_MODEL") or stand_in,
    name="research",
    deps_type=Desk,
    output_type=Report,
    toolsets=[reading, counting],
    instructions="Search first, open what you found, and name only pages that you have opened as sources.",
)


@agent.tool
async def note(ctx: RunContext[Desk], text: str) -> str:
    """Writes something down, for `read_notes`."""
    ctx.deps.notes.append(text)
    return f"note {len(ctx.deps.notes)}"


@agent.tool
async def read_notes(ctx: RunContext[Desk]) -> list[str]:
    """What was written down."""
    return ctx.deps.notes


@scorer(id="sources-opened", version="1")
async def sources_opened(sample: Sample) -> Score:
    """The share of the sources that were opened before they were named."""
    opened = {call.arguments.get("name") for call in sample.tool_calls if call.tool_name in ("open_page", "sentences")}
    sources = sample.output["sources"]
    missing = [name for name in sources if name not in opened]
    return Score(1 - len(missing) / len(sources), reason=f"never opened: {', '.join(missing)}" if missing else "")


research = durable_agent(
    agent,
    version="1",
    deps=lambda run: Desk(),
    limits=UsageLimits(request_limit=20, tool_calls_limit=40),
    tool_retry={"": Retry(attempts=3), "search": Retry(attempts=5, delay_seconds=0.5, on=ConnectionError)},
    on_tool_error="tell_model",
    scorers=[
        ScorerRef("sources-opened"),
        ScorerRef("tool-call-accuracy", options={"expected_order": ["search", "open_page"]}, name="searched-first"),
    ],
)
