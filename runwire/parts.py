"""Parts of an agent's input beside text: images, audio, video and documents, by URL or inline.

    client.start_run("assistant", ["What is on it?", image("https://example.org/cat.png")])
    client.start_run("assistant", ["And here?", image(Path("cat.png"))])

A part is an object, so that every language and every way in can write one:

    {"type": "image", "url": "https://example.org/cat.png"}
    {"type": "document", "data": "<base64>", "media_type": "application/pdf"}
    {"type": "text", "text": "What is on it?"}

`type` is text, image, audio, video or document. `media_type` is needed with `data`; with a URL it is what its ending
says. A text alone stands for a part of type text. All of an input has at most 1 MiB: what is larger goes by URL.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runwire.agent.v1 import run_pb2
from runwire.errors import InvalidRequest
from runwire.values import Json

_KIND_OF: Final[Mapping[str, str]] = {"image": "image", "audio": "audio", "video": "video"}

Part = dict[str, Json]

_FIELDS: Final = frozenset({"type", "text", "url", "data", "media_type"})


def as_text(value: Mapping[str, object]) -> str | None:
    """What is shown of a part where only text can be: its text, its URL, or its kind. None for what is no part."""
    kind = value.get("type")
    if not _FIELDS.issuperset(value) or len(value) < 2:
        return None
    if kind == "text":
        return str(value.get("text", ""))
    if kind not in ("image", "audio", "video", "document"):
        return None
    return str(value["url"]) if "url" in value else f"[{kind} {value.get('media_type', '')}]"


def image(source: str | bytes | Path, media_type: str = "") -> Part:
    """An image: a URL, a file, or its bytes with their `media_type`. Raises InvalidRequest, OSError."""
    return _part("image", source, media_type)


def audio(source: str | bytes | Path, media_type: str = "") -> Part:
    """A recording, likewise."""
    return _part("audio", source, media_type)


def video(source: str | bytes | Path, media_type: str = "") -> Part:
    """A film, likewise."""
    return _part("video", source, media_type)


def document(source: str | bytes | Path, media_type: str = "") -> Part:
    """A document, such as a PDF, likewise."""
    return _part("document", source, media_type)


def of_file(path: Path, media_type: str = "") -> Part:
    """A file, as the kind of part that its name says. Raises InvalidRequest, OSError."""
    known = media_type or _guessed(path)
    return _part(kind_of(known), path, known)


def kind_of(media_type: str) -> str:
    """The kind of part that has this media type."""
    return _KIND_OF.get(media_type.partition("/")[0], "document")


def _part(kind: str, source: str | bytes | Path, media_type: str) -> Part:
    if isinstance(source, str):
        return {"type": kind, "url": source, **({"media_type": media_type} if media_type else {})}
    if isinstance(source, Path):
        media_type, source = media_type or _guessed(source), source.read_bytes()
    if not media_type:
        raise InvalidRequest({"media_type": f"must be set for the bytes of {kind}: image(data, 'image/png')"})
    return {"type": kind, "data": base64.b64encode(source).decode(), "media_type": media_type}


def _guessed(path: Path) -> str:
    guessed, _ = mimetypes.guess_type(path.name)
    if guessed is None:
        raise InvalidRequest({"media_type": f"nobody knows what {path.name!r} is by its name: say it, as 'image/png'"})
    return guessed


def of_proto(part: run_pb2.InputPart, path: str) -> Json:
    """A part of a StartRunRequest as its object. Raises InvalidRequest for one that holds nothing."""
    kind = part.WhichOneof("content")
    if kind is None:
        raise InvalidRequest({path: "holds no content: one of text, image, audio, video, document"})
    if kind == "text":
        return {"type": "text", "text": part.text}
    media: run_pb2.Media = getattr(part, kind)
    source: Part = {"type": kind}
    if media.WhichOneof("source") == "data":
        source["data"] = base64.b64encode(media.data).decode()
    elif media.url:
        source["url"] = media.url
    if media.media_type:
        source["media_type"] = media.media_type
    return source
