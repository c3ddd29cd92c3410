"""Lines of the log: none can be forged, none holds a secret, and nobody fills it."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Mapping

import structlog
from hypothesis import given
from hypothesis import strategies as st

from runwire import logs
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


def json_line(
    message: object,
    *args: object,
    error: BaseException | None = None,
    beside: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """A record as JSON, with values beside its text."""
    given = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("author", 20, "", 0, message, args, given)
    record.__dict__["fields"] = beside or {}
    text = logs.JsonFormatter(structlog.contextvars.get_contextvars).format(record)
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    assert isinstance(line, dict)
    return line


@given(st.text(), st.dictionaries(st.text(), st.text() | st.floats() | st.integers() | st.none() | st.binary()))
def test_any_text_is_one_json_object(text: str, values: dict[str, object]) -> None:
    """Whatever is said, with whatever values: one line, one object, and what is ours stays ours."""
    line = json_line("%s", text, beside=values)
    assert (line["logger"], line["level"]) == ("author", "INFO")
    assert set(line) >= {"time", "level", "logger", "event"}


def test_no_secret_is_in_a_json_line() -> None:
    """Neither in the text, nor in a value, nor named by a value's own name, nor in a traceback, nor cut in two by what
    stands between values."""
    try:
        raise ValueError("token sk-abcdefghijklmnop1234")
    except ValueError as error:
        beside = {"password": "hunter3", "url": "redis://u:hunter4@h", "deep": {"pwd": "hunter5"}}
        line = json_line("password=hunter2", error=error, beside=beside)
    key = json_line("-----BEGIN PRIVATE KEY-----\nhunter6", beside={"after": "kept"})
    assert "hunter" not in json.dumps([line, key])
    assert "sk-abc" not in json.dumps(line)
    assert key["after"] == "kept"


def test_an_author_cannot_take_our_keys() -> None:
    """Values called as ours are kept beside them."""
    line = json_line("said", beside={"time": 1, "event": "forged", "level": "ERROR"})
    assert (line["event"], line["level"], line["time_"], line["event_"], line["level_"]) == (
        *("said", "INFO", 1),
        *("forged", "ERROR"),
    )


async def test_lines_say_what_they_are_about() -> None:
    """Inside `about`, also in tasks and threads that begin there; and not outside of it."""
    with logs.about(run_id="r", attempt=2):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.to_thread(json_line, "in a thread"))
    assert (task.result()["run_id"], task.result()["attempt"]) == ("r", 2)
    assert "run_id" not in json_line("outside")


def test_a_line_for_people_says_it_too() -> None:
    """On a terminal the same values follow the text, and none looks like a line of its own."""
    formatter = LineFormatter("%(levelname)s %(message)s", structlog.contextvars.get_contextvars)
    record = logging.LogRecord("runwire", 20, "", 0, "said", (), None)
    record.__dict__.update(logs.fields(why="a\nERROR b"))
    with logs.about(run_id="r"):
        assert formatter.format(record) == "INFO said run_id=r why=a\n    | ERROR b"


AUTHOR = """
import logging, structlog, sys
from runwire import logs
logs.configure("INFO", sys.argv[1])
with logs.about(run_id="r"):
    structlog.get_logger("mine").info("bought %d", 3, name="tea", msg="x")
    structlog.get_logger("mine").debug("not shown")
    logging.getLogger("other").warning("late")
"""


def test_structlog_goes_the_same_way() -> None:
    """An author's structlog lines come out as those of logging do: JSON where asked for, with the run, by level."""
    done = subprocess.run([sys.executable, "-c", AUTHOR, "auto"], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert {**first, "time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "mine",
        "event": "bought 3",
        "run_id": "r",
        "name": "tea",
        "msg": "x",
    }
    assert (second["event"], second["run_id"]) == ("late", "r")
    done = subprocess.run([sys.executable, "-c", AUTHOR, "text"], capture_output=True, text=True, check=True)
    assert "INFO mine: bought 3 run_id=r name=tea msg=x" in done.stderr
