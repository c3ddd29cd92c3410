"""`make demo`: both services as processes of their own, a run whose connection is cut and resumed, and its scores.

Needs no key and no network. Everything it makes is in a temporary directory, and every process it ends is its own.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from runwire.client import AgentClient, RunEvent, RunState, ScorerClient, ScorerRun, ScorerRunState, fold

QUESTION: Final = "What is a cursor, and how does a client resume with it?"
CUT_AFTER_EVENTS: Final = 45
SECONDS_AWAY: Final = 0.6
START_SECONDS: Final = 30.0
RUN_SECONDS: Final = 60.0
SCORE_SECONDS: Final = 60.0

console = Console(highlight=False)


class DemoFailed(Exception):
    """Something does not hold. The message says what, in one line."""


async def demo() -> None:
    with tempfile.TemporaryDirectory(prefix="runwire-demo-") as directory:
        async with AsyncExitStack() as stack:
            agents, scorers = await start_services(stack, Path(directory))
            run_id, events = await watch_through_a_cut(agents)
            await prove(agents, run_id, events)
            await show_scores(scorers, run_id)


async def start_services(stack: AsyncExitStack, directory: Path) -> Sequence[str]:
    """Starts both at once; returns their addresses."""
    store, results = f"sqlite:///{directory}/runs.db", f"sqlite:///{directory}/scores.db"
    services = [
        service("agent_service", directory, "--store", store, "--agents", "agent_service.demo"),
        service("scorer_service", directory, "--store", store, "--results", results),
    ]
    console.rule("[bold]Two services, one SQLite file[/bold]")
    addresses = await asyncio.gather(*map(stack.enter_async_context, services))
    for name, address in zip(("agent service ", "scorer service"), addresses, strict=True):
        console.print(f"  {name} [cyan]{address}[/cyan]")
    return addresses


@asynccontextmanager
async def service(module: str, directory: Path, *arguments: str) -> AsyncIterator[str]:
    """A service in a process of its own while the context is open; its address is in its first line."""
    errors = directory / f"{module}.log"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--listen", "127.0.0.1:0", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
    try:
        yield await address_of(process, module, errors)
    finally:
        await end(process)


async def address_of(process: asyncio.subprocess.Process, module: str, errors: Path) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    if " listening on " not in line:
        said = (await asyncio.to_thread(errors.read_text, "utf-8", "replace")).strip().splitlines()
        raise DemoFailed(f"{module} did not start: {said[-1] if said else 'it said nothing'}")
    return line.rsplit(" ", 1)[1].strip()


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(15):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def watch_through_a_cut(address: str) -> tuple[str, Sequence[RunEvent]]:
    """Starts a run, loses the connection in the middle, comes back with the cursor; returns all that was received."""
    console.rule("[bold]A run, its connection cut in the middle[/bold]")
    console.print(f"  [dim]librarian is asked:[/dim] {QUESTION}\n")
    async with AgentClient(address) as client:
        run = await client.start_run("librarian", QUESTION)
        received, cursor = await watch(client, run.run_id, after="", limit=CUT_AFTER_EVENTS)
    # The client is closed: its connection is gone, and the run does not care.
    console.print(f"\n\n  [bold red]cut[/bold red] after event {received[-1].sequence}; cursor [dim]{cursor}[/dim]")
    await asyncio.sleep(SECONDS_AWAY)
    async with AgentClient(address) as client:
        missed = (await client.get_run(run.run_id)).last_sequence - received[-1].sequence
        if missed < 1:
            raise DemoFailed("the run did not continue while nobody watched")
        console.print(f"  [bold green]back[/bold green] {SECONDS_AWAY:g} s and {missed} events later\n")
        rest, _ = await watch(client, run.run_id, after=cursor)
    console.print("\n")
    return run.run_id, [*received, *rest]


async def watch(
    client: AgentClient, run_id: str, *, after: str, limit: int | None = None
) -> tuple[list[RunEvent], str]:
    """Events after a cursor, at most `limit`, printed as they come; and the cursor after the last of them."""
    received: list[RunEvent] = []
    async with asyncio.timeout(RUN_SECONDS), client.watch(run_id, after=after, max_batch_size=1) as stream:
        async for event in stream:
            received.append(event)
            show(event)
            if limit is not None and len(received) == limit:
                return received, stream.next_cursor
    return received, stream.cursor


def show(event: RunEvent) -> None:
    kind = event.WhichOneof("payload")
    if kind == "text_delta":
        console.print(event.text_delta.text, end="", markup=False, soft_wrap=True)
    elif kind == "tool_call_started":
        console.print(f"\n  [yellow]{event.tool_call_started.tool_name}[/yellow] ...", end="")
    elif kind == "tool_call_finished":
        console.print(f" [dim]{len(event.tool_call_finished.result.list_value.values)} passages[/dim]\n")


async def prove(address: str, run_id: str, received: Sequence[RunEvent]) -> None:
    """What was received over two connections is the log, byte by byte."""
    console.rule("[bold]What came through both connections is the log[/bold]")
    async with AgentClient(address) as client:
        log = [event async for event in client.list_run_events(run_id)]
        run = await client.get_run(run_id)
    if [event.sequence for event in received] != list(range(1, len(log) + 1)):
        raise DemoFailed("there is a gap or a duplicate in what was received")
    if [event.SerializeToString() for event in received] != [event.SerializeToString() for event in log]:
        raise DemoFailed("what was received differs from the log")
    view = fold(received)
    if view.text != fold(log).text or run.state != RunState.RUN_STATE_SUCCEEDED or view.state != run.state:
        raise DemoFailed(f"the run ended as {RunState.Name(run.state)}, and its text or state is not that of the log")
    size = sum(event.ByteSize() for event in log)
    console.print(f"  {len(log)} events, {size} bytes, {len(view.text)} characters of text: [green]identical[/green]")


async def show_scores(address: str, run_id: str) -> None:
    """The scores, once all are there."""
    console.rule("[bold]Its scores, from the other service[/bold]")
    found: dict[str, ScorerRun] = {}
    client = ScorerClient(address)
    async with asyncio.timeout(SCORE_SECONDS), client, client.watch_scorer_runs(run_id) as stream:
        async for scored in stream:
            found[scored.scorer_run_id] = scored
    table = Table(box=None, padding=(0, 1, 0, 2))
    for column in ("scorer", "state", "score"):
        table.add_column(column, no_wrap=True)
    table.add_column("reason")
    for scored in sorted(found.values(), key=lambda each: each.scorer_id):
        state = ScorerRunState.Name(scored.state).removeprefix("SCORER_RUN_STATE_").lower()
        score = f"{scored.score.value:.3f}" if scored.HasField("score") else ""
        table.add_row(f"{scored.scorer_id} [dim]{scored.scorer_version}[/dim]", state, score, scored.score.reason)
    console.print(table)
    failed = [each.scorer_id for each in found.values() if each.state != ScorerRunState.SCORER_RUN_STATE_SUCCEEDED]
    if failed or len(found) != 2:
        raise DemoFailed(f"expected two scores, got {len(found)}; without one: {failed or 'none'}")


def main() -> int:
    begun = time.monotonic()
    try:
        asyncio.run(demo())
    except DemoFailed as error:
        console.print(f"\n[bold red]the demonstration failed:[/bold red] {error}", soft_wrap=True)
        return 1
    except TimeoutError:
        console.print("\n[bold red]the demonstration failed:[/bold red] it took too long")
        return 1
    except KeyboardInterrupt:
        return 130
    console.rule(f"[bold green]done[/bold green] in {time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
