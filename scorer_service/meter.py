"""What an attempt asks of language models, counted as it happens: also by attempts that fail, or are stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from scorer_service.results.records import Asked, printable

MAX_EXCHANGES: Final = 8
"""Most requests of an attempt whose content is kept."""
MAX_CONTENT_LENGTH: Final = 65_536
"""Most characters that are kept of a prompt, and of an answer."""
_MAX_TOKENS: Final = 2**53

Answered = Literal["", "answered", "rate_limited", "provider_unavailable"]


def tokens(value: Any) -> int:
    """A number of tokens, whatever a provider said: 0 for what is none."""
    return min(value, _MAX_TOKENS) if isinstance(value, int) and value > 0 else 0


def cost(value: Any) -> float | None:
    """US dollars; None for what is no price."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


@dataclass(slots=True)
class Meter:
    """Of one attempt."""

    with_content: bool = False
    """Whether prompts and answers are kept: they may hold what users wrote."""
    model: str = ""
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    """None as soon as a price is not known."""
    exchanges: list[dict[str, str]] = field(default_factory=list)
    answered: Answered = ""
    """How the provider took the newest request; empty while it has not."""
    delay_seconds: float | None = None
    """The pause that the provider asked for with it."""

    def begin(self, model: str) -> None:
        """A request is about to be made."""
        self.model, self.answered, self.delay_seconds = model, "", None

    def add(self, requests: Any, input_tokens: Any, output_tokens: Any, cost_usd: Any) -> None:
        """Counts what requests took."""
        self.requests += tokens(requests)
        self.input_tokens = min(_MAX_TOKENS, self.input_tokens + tokens(input_tokens))
        self.output_tokens = min(_MAX_TOKENS, self.output_tokens + tokens(output_tokens))
        price = cost(cost_usd)
        self.cost_usd = None if price is None or self.cost_usd is None else cost(self.cost_usd + price)

    def keep(self, prompt: str, answer: str) -> None:
        """Remembers an exchange, where content is wanted."""
        if self.with_content and len(self.exchanges) < MAX_EXCHANGES:
            texts = (printable(text[: 2 * MAX_CONTENT_LENGTH], MAX_CONTENT_LENGTH) for text in (prompt, answer))
            self.exchanges.append(dict(zip(("prompt", "answer"), texts, strict=True)))

    def take(self, other: Mapping[str, Any]) -> None:
        """Takes over what `dump` gave in another process."""
        for name, value in other.items():
            setattr(self, name, value)

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "with_content"}

    @property
    def hangs(self) -> bool:
        """Whether the newest request was never answered."""
        return bool(self.model) and not self.answered

    @property
    def is_paid(self) -> bool:
        """Whether something was used that costs."""
        return self.input_tokens > 0 or self.output_tokens > 0

    def asked(self) -> Asked | None:
        """How the provider took the newest request."""
        return Asked(self.model, self.answered or "provider_unavailable", self.delay_seconds) if self.model else None

    def text(self) -> str | None:
        """As it is kept with an attempt; None where nothing was asked."""
        if not self.requests:
            return None
        names = ("model", "requests", "input_tokens", "output_tokens", "cost_usd")
        return json.dumps({name: getattr(self, name) for name in names})

    def content(self) -> str | None:
        """What was said, as it is kept with an attempt; None where nothing is."""
        return json.dumps(self.exchanges) if self.exchanges else None


METER: Final[ContextVar[Meter | None]] = ContextVar("meter", default=None)
"""The meter of the attempt that runs."""
