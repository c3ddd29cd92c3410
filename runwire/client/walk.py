"""What goes through any number of scorer runs page by page, the same for both clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

_PAGE_SIZE: Final = 1000
_MAX_IDS: Final = 1000

OnProgress = Callable[[int], None]
"""Is told how many it are so far."""

Response = TypeVar("Response", bound=Any)


class Walk(Generic[Response]):
    """Asks for page after page, and adds up."""

    def __init__(self, request: Any, total: Response, on_progress: OnProgress | None) -> None:
        if request.HasField("filter"):
            request.page_size = _PAGE_SIZE
        self.request = request
        """The next one to send."""
        self.total = total
        self._on_progress = on_progress

    @property
    def repeatable(self) -> bool:
        """Whether the request may be sent again when its answer is lost, also to a service that may be older."""
        return bool(self.request.page_token)

    def take(self, response: Response) -> bool:
        """Takes an answer; whether there is more to ask for."""
        self.total.count += response.count
        room = _MAX_IDS - len(self.total.scorer_run_ids)
        self.total.scorer_run_ids.extend(response.scorer_run_ids[:room])
        self.request.page_token = response.next_page_token
        if self._on_progress is not None and (response.count or not self.request.page_token):
            self._on_progress(self.total.count)
        return bool(self.request.page_token)
