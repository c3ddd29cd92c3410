"""The input of a pydantic-ai agent: a text, or texts and parts (`runwire.parts`), checked before a run is accepted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal

from google.protobuf import struct_pb2
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator
from pydantic_ai.messages import AudioUrl, BinaryContent, DocumentUrl, ImageUrl, UserContent, VideoUrl

from runwire.values import from_value

MAX_PARTS: Final = 256

_Text = Annotated[str, StringConstraints(min_length=1)]
_MediaUrl = ImageUrl | AudioUrl | VideoUrl | DocumentUrl
_URLS: Final[Mapping[str, Callable[..., _MediaUrl]]] = {
    "image": ImageUrl,
    "audio": AudioUrl,
    "video": VideoUrl,
    "document": DocumentUrl,
}


class TextPart(BaseModel):
    """A text among parts."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: _Text


class MediaPart(BaseModel):
    """What is no text, by URL or inline."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image", "audio", "video", "document"]
    url: str = Field(default="", max_length=8192, pattern=r"^$|^https?://[^\s/]")
    data: str = Field(default="", json_schema_extra={"contentEncoding": "base64"})
    media_type: str = Field(default="", max_length=256, pattern=r"^$|^[\w.+-]+/[\w.+-]+$")

    @model_validator(mode="after")
    def _holds_one(self) -> MediaPart:
        if bool(self.url) == bool(self.data):
            raise ValueError("a part has either a url or data")
        if self.data:
            if not self.media_type:
                raise ValueError("media_type must be set with data, as 'image/png'")
            try:
                base64.b64decode(self.data, validate=True)
            except (binascii.Error, ValueError):
                raise ValueError("data is no base64") from None
        return self

    def content(self) -> UserContent:
        """As pydantic-ai has it."""
        if self.data:
            return BinaryContent(base64.b64decode(self.data), media_type=self.media_type)
        return _URLS[self.type](self.url, media_type=self.media_type or None)


_Part = Annotated[TextPart | MediaPart, Field(discriminator="type")]
Parts = Annotated[list[_Text | _Part], Field(min_length=1, max_length=MAX_PARTS)]
Prompt = _Text | Parts


_PROMPT: Final[TypeAdapter[str | list[str | TextPart | MediaPart]]] = TypeAdapter(Prompt)


def read(value: struct_pb2.Value) -> str | list[UserContent]:
    """A message of a conversation, checked when it was accepted, as `Agent.run` is given it."""
    return to_user_prompt(_PROMPT.validate_python(from_value(value)))


def to_user_prompt(prompt: str | Sequence[str | TextPart | MediaPart]) -> str | list[UserContent]:
    """What `Agent.run` is given."""
    if isinstance(prompt, str):
        return prompt
    contents: list[UserContent] = []
    for part in prompt:
        contents.append(part.content() if isinstance(part, MediaPart) else part if isinstance(part, str) else part.text)
    return contents
