"""A local server that speaks the OpenAI chat protocol and says what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


Answer = tuple[int, dict[str, Any], dict[str, str]]


def failure(status: int, message: str, **headers: str) -> Answer:
    """An answer that is an error."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message, "type": "error", "code": None}}, names


class OpenAIServer:
    """Answers the requests with `answers`, in their order; the last one again and again."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.requests: list[dict[str, Any]] = []
        self.refuse: Callable[[], Answer | None] = lambda: None
        """What a request is answered instead, if anything."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                status, answer, headers = outer.refuse() or (
                    outer.answers[0] if len(outer.answers) == 1 else outer.answers.popleft()
                )
                payload = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def says(self, output: Any) -> Self:
        """The next answer is this, in the form that was asked for (a call of the tool for the final result)."""
        arguments = output if isinstance(output, str) else json.dumps(output)
        call = {"id": "call_1", "type": "function", "function": {"name": "final_result", "arguments": arguments}}
        return self._add({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")

    def says_text(self, text: str) -> Self:
        """The next answer is plain text, in no form."""
        return self._add({"role": "assistant", "content": text}, "stop")

    def refuses(self) -> Self:
        """The next answer is a refusal."""
        return self._add({"role": "assistant", "content": None, "refusal": "I will not judge this."}, "stop")

    def fails(self, status: int, message: str, **headers: str) -> Self:
        """The next answer is an error."""
        self.answers.append(failure(status, message, **headers))
        return self

    def _add(self, message: dict[str, Any], finish_reason: str) -> Self:
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "gpt-4o-mini",
            "choices": [choice],
            "usage": USAGE,
        }
        self.answers.append((200, answer, {}))
        return self

    def prompt(self, number: int = -1) -> dict[str, Any]:
        """The data that a request brought."""
        content = next(m["content"] for m in self.requests[number]["messages"] if m["role"] == "user")
        return json.loads(content)  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
