"""Lines of the log: none can be forged, none holds a secret, and nobody fills it."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from runwire.logs import LineFormatter, Sparing
from runwire.redaction import one_line

FORMATTER = LineFormatter("%(levelname)s %(name)s: %(message)s")
MORE = "    | "


def formatted(message: str, *args: object, error: BaseException | None = None) -> list[str]:
    given = (type(error), error, error.__traceback__) if error is not None else None
    return FORMATTER.format(logging.LogRecord("runwire", 20, "", 0, message, args, given)).split("\n")


@given(st.text())
def test_no_text_looks_like_a_record(text: str) -> None:
    """Only the first line begins as a record does; no line has control characters, or others that end or turn it."""
    first, *rest = formatted("%s failed", text)
    assert first.startswith("INFO runwire: ")
    assert all(line.startswith(MORE) for line in rest)
    for line in (first, *rest):
        assert one_line(line) == line
        assert len(line.splitlines()) == 1


def test_a_forged_line() -> None:
    """A line feed in an agent's exception, and a terminal's escape, are shown as what they are."""
    try:
        raise ValueError("no\nERROR root: all is lost\r\x1b[2Jgone \u2028x password=hunter2")
    except ValueError as error:
        lines = formatted("failed: %s", error, error=error)
    assert [line for line in lines if line.startswith("ERROR")] == []
    assert "    | ERROR root: all is lost\\r\\x1b[2Jgone \\u2028x password=[redacted]" in lines
    assert any("Traceback" in line for line in lines)


def test_nobody_fills_the_log(caplog: logging.Handler) -> None:
    """The same fault a thousand times is one line, and another kind is told still."""
    sparing = Sparing(logging.getLogger("test"))
    for _ in range(1000):
        sparing.error("a", "a failed")
    sparing.error("b", "b failed")
    assert [record.getMessage() for record in caplog.records] == ["a failed", "b failed"]  # type: ignore[attr-defined]
