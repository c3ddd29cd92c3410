"""Inputs that are more than text, as the model gets them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent, ModelResponse, TextPart
from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agent_service import durable_agent
from runwire import parts
from runwire.agent.v1 import run_pb2
from runwire.errors import InvalidRequest
from tests.agents.stage import Stage

PNG = b"\x89PNG\r\n\x00\xff"
INPUT: list[Any] = [
    "What is it?",
    parts.image("https://e.org/a.png"),
    parts.audio("https://e.org/a", "audio/mpeg"),
    parts.video("http://e.org/a.mp4"),
    parts.document("https://e.org/a.pdf"),
    parts.image(PNG, "image/png"),
    {"type": "text", "text": "Say."},
]
CONTENT = [
    "What is it?",
    ImageUrl("https://e.org/a.png"),
    AudioUrl("https://e.org/a", media_type="audio/mpeg"),
    VideoUrl("http://e.org/a.mp4"),
    DocumentUrl("https://e.org/a.pdf"),
    BinaryContent(PNG, media_type="image/png"),
    "Say.",
]


def listening(heard: list[Any]) -> Any:
    def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        heard.append([part.content for part in messages[-1].parts if isinstance(part, UserPromptPart)])
        return ModelResponse([TextPart("seen")])

    return durable_agent(Agent(FunctionModel(says), name="seeing"))


async def test_the_model_is_given_parts() -> None:
    """Each part comes as pydantic-ai's own, in order, also after a crash."""
    heard: list[Any] = []
    stage = Stage(listening(heard))
    await stage.start(INPUT)
    await stage.attempt(die_after=1)
    await stage.attempt()
    view = await stage.view()
    assert (view.output, view.input) == ("seen", INPUT)
    assert heard == [[CONTENT]]


async def test_typed_parts_are_the_same_input() -> None:
    """StartRunRequest.parts are kept and given as the list of objects."""
    heard: list[Any] = []
    given = [
        run_pb2.InputPart(text="What is it?"),
        run_pb2.InputPart(image=run_pb2.Media(data=PNG, media_type="image/png")),
    ]
    stage = Stage(listening(heard))
    await stage.start_parts(given)
    await stage.attempt()
    assert heard == [[["What is it?", CONTENT[5]]]]
    assert (await stage.view()).input == [{"type": "text", "text": "What is it?"}, INPUT[5]]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ([], "at least 1"),
        ([""], "at least 1 character"),
        ([{"type": "image"}], "either a url or data"),
        ([{"type": "image", "url": "https://e.org", "data": "AA=="}], "either a url or data"),
        ([{"type": "image", "data": "AA=="}], "media_type must be set"),
        ([{"type": "image", "data": "no base64!", "media_type": "image/png"}], "no base64"),
        ([{"type": "image", "url": "file:///etc/passwd"}], "pattern"),
        ([{"type": "image", "url": "gopher://e.org"}], "pattern"),
        ([{"type": "image", "url": "https://e.org", "force_download": True}], "not permitted"),
        ([{"type": "hologram", "url": "https://e.org"}], "'image', 'audio'"),
        ([{"type": "image", "url": "https://e.org", "media_type": "x\r\ny: z"}], "pattern"),
        ([[]], "dict"),
        (["x"] * 257, "at most 256"),
        ({"type": "text", "text": "a"}, "string"),
        ("", "at least 1 character"),
        (None, "string"),
    ],
)
async def test_parts_that_are_wrong(wrong: Any, said: str) -> None:
    """They are refused before the run is accepted, by name."""
    with pytest.raises(InvalidRequest) as error:
        await Stage(listening([])).start(wrong)
    assert said in " ".join(error.value.violations.values())
    assert all(path.startswith("input") for path in error.value.violations)


async def test_typed_parts_that_are_wrong() -> None:
    """Parts beside an input, parts without content, and what has too many bytes as text are refused by name."""
    large = run_pb2.InputPart(image=run_pb2.Media(data=b"x" * 1_000_000, media_type="image/png"))
    for given, path in (([run_pb2.InputPart()], "parts[0]"), ([large], "parts")):
        with pytest.raises(InvalidRequest) as error:
            await Stage(listening([])).start_parts(given)
        assert list(error.value.violations) == [path]
    with pytest.raises(InvalidRequest, match="parts"):
        await Stage(listening([])).start("x", parts=[run_pb2.InputPart(text="a")])
