"""What is judged, as the text of a prompt, within bounds."""

from __future__ import annotations

import json
from typing import Any, Final

from scorer_service.scoring import NotScorable

MAX_PROMPT_LENGTH: Final = 200_000
"""Most characters of one prompt, instructions aside."""
_MIN_LENGTH: Final = 200
"""A text is not cut to less."""

CUT_RULE: Final = (
    "Where the user message has a field `cut`, the texts named in it were too long and lack their middle, where "
    "[... characters cut ...] stands; it tells how many characters each had. Judge what is there, and count nothing "
    "as missing only because it may stand in what was cut."
)


def prompt_of(data: dict[str, Any]) -> tuple[str, dict[str, int]]:
    """The data as JSON, and which of its texts were cut (by path) with the characters that they had.

    Long texts are cut in their middle, the longest first, until all fits. Raises NotScorable where it does not fit even
    so: there are too many parts.
    """
    data = json.loads(json.dumps(data, ensure_ascii=False, default=str))
    text = json.dumps(data, ensure_ascii=False)
    limit, cut = MAX_PROMPT_LENGTH, dict[str, int]()
    while len(text) > MAX_PROMPT_LENGTH:
        limit //= 2
        if limit < _MIN_LENGTH:
            raise NotScorable(f"it has too many parts for a judge: more than {MAX_PROMPT_LENGTH} characters")
        cut = {}
        text = json.dumps({**_shorter(data, limit, "", cut), "cut": cut}, ensure_ascii=False)
    return text, cut


def _shorter(value: Any, limit: int, path: str, cut: dict[str, int]) -> Any:
    if isinstance(value, str) and len(value) > limit:
        cut[path] = len(value)
        half = limit // 2
        return f"{value[:half]}[... {len(value) - 2 * half} characters cut ...]{value[-half:]}"
    if isinstance(value, dict):
        return {key: _shorter(item, limit, f"{path}.{key}".lstrip("."), cut) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorter(item, limit, f"{path}[{number}]", cut) for number, item in enumerate(value, 1)]
    return value
