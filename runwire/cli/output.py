"""How things are shown: tables for people, tab-separated lines for pipes, protobuf JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runwire.cli.session import on_terminal

STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "queued": "cyan",
    "pending": "cyan",
    "retrying": "yellow",
    "suspended": "yellow",
    "waiting": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "declined": "dim",
    "not scorable": "dim",
}


def print_json(message: Message) -> None:
    """One line, flushed, so that a reader at the other end of a pipe sees it at once."""
    print(json_line(message), flush=True)


def json_line(message: Message) -> str:
    """Protobuf JSON in one line."""
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on a terminal; elsewhere one line a row with tabs between the cells, and no header."""
    if not on_terminal():
        for row in rows:
            print("\t".join(_plain(cell) for cell in row))
        return
    table = new_table(columns)
    for row in rows:
        table.add_row(*(styled(cell) for cell in row))
    Console().print(table if table.row_count else Text(empty, style="dim"))


def new_table(columns: Sequence[str]) -> Table:
    """Without lines. The first column is whole whatever the width: it holds what one copies."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    first, *others = columns
    table.add_column(first, no_wrap=True, overflow="ignore")
    for column in others:
        table.add_column(column)
    return table


def note(text: str) -> None:
    """Something for the person at the terminal, beside the output proper."""
    print(text, file=sys.stderr)


def state_name(value: int, enum: Any) -> str:
    """`RUN_STATE_SUCCEEDED` as `succeeded`. A state of a newer service is shown by its number."""
    if value not in enum.values():
        return f"state {value}"
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.DESCRIPTOR.name).lstrip("_") + "_"
    name: str = enum.Name(value)
    return name.removeprefix(prefix).lower().replace("_", " ")


def when(timestamp: Timestamp) -> str:
    """Local time; empty when unset."""
    if not timestamp.seconds:
        return ""
    return timestamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(timestamp: Timestamp) -> str:
    """How long ago; empty when unset."""
    if not timestamp.seconds:
        return ""
    return f"{span((datetime.now(UTC) - timestamp.ToDatetime(UTC)).total_seconds())} ago"


def span(seconds: float) -> str:
    """A length of time, roughly."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def compact(value: object) -> str:
    """A value in one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())


def _plain(cell: object) -> str:
    return " ".join(str(cell).split())


def styled(cell: object) -> Text:
    text = str(cell)
    return Text(text, style=STYLES.get(text, ""))
