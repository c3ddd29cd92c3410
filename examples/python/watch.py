"""Follows a run, and carries on where it stopped when it is started again: python watch.py HOST:PORT RUN [FILE]."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from runwire.client import RUN_STATE_SUCCEEDED, AgentClient, RunState
from runwire.errors import RunwireError


async def main(target: str, run_id: str, file: Path, kept: dict[str, Any]) -> int:
    async with AgentClient(target) as client, client.watch(run_id, **kept) as stream:
        async for event in stream:
            print(event.text_delta.text, end="", flush=True)
            keep(file, after=stream.cursor, last_sequence=event.sequence)
    print(RunState.Name(stream.state), file=sys.stderr)
    return 0 if stream.state == RUN_STATE_SUCCEEDED else 1


def keep(file: Path, **place: str | int) -> None:
    """Writes where we are; the file holds the old place or the new one, whenever the machine stops."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(place))
    new.replace(file)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python watch.py HOST:PORT RUN [FILE]")
    file = Path((sys.argv[3:] or ["watch.json"])[0])
    kept = json.loads(file.read_text()) if file.exists() else {}
    try:
        sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], file, kept)))
    except RunwireError as error:
        sys.exit(str(error))
