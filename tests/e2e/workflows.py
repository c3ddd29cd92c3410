"""What the processes under test execute. Each notes what it does in the ledger."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

from agent_service import Retry, RunContext, ScorerRef, workflow
from tests.e2e.ledger import note

STEPS = ("one", "two", "three")
PARALLEL = ("left", "middle", "right")


@workflow(id="count")
async def count(ctx: RunContext, input: dict[str, float]) -> int:
    """So many texts, with a pause after each `burst` of them."""
    total, burst = int(input["count"]), int(input.get("burst", 1))
    for number in range(total):
        await ctx.emit_text(f"{number} ")
        if number % burst == burst - 1 and input.get("pause"):
            await asyncio.sleep(input["pause"])
    return total


@workflow(id="journey", scorers=[ScorerRef("a"), ScorerRef("b", sampling=0.5)])
async def journey(ctx: RunContext, input: dict[str, Any]) -> dict[str, Any]:
    """Steps one after the other, steps at once, a step that fails twice, texts and events of its own kind."""
    name, pause = input["name"], input.get("pause", 0.0)
    note(f"{name} begins")
    await ctx.emit_text("begin ")
    results = [await ctx.step(step, work, ctx, name, step, pause) for step in STEPS]
    await ctx.emit_custom("half", {"results": results})
    parallel = await ctx.gather(**{step: ctx.step(step, work, ctx, name, step, pause) for step in PARALLEL})
    flaky = await ctx.step("flaky", fail_twice, ctx, name, retry=Retry(attempts=9, delay_seconds=0.001))
    await asyncio.sleep(pause)
    await ctx.emit_text("end")
    return {"steps": results, "parallel": parallel, "flaky": flaky}


async def work(ctx: RunContext, name: str, step: str, pause: float) -> str:
    note(f"{name} {step}")
    await ctx.emit_text(f"{step} ")
    await asyncio.sleep(pause)
    await ctx.emit_text("done ")
    return step.upper()


async def fail_twice(ctx: RunContext, name: str) -> str:
    await ctx.emit_text("trying ")
    if note(f"{name} tries flaky") < 2:
        raise ConnectionError("not yet")
    note(f"{name} flaky")
    return "at last"


JOURNEY_OUTPUT = {
    "steps": [step.upper() for step in STEPS],
    "parallel": {step: step.upper() for step in PARALLEL},
    "flaky": "at last",
}
JOURNEY_STEPS = (*STEPS, *PARALLEL, "flaky")


@workflow(id="twenty", scorers=[ScorerRef("s")])
async def twenty(ctx: RunContext, input: dict[str, Any]) -> int:
    """A run of 20 events: six steps with a text each."""
    for number in range(6):
        await ctx.step(f"step {number}", one_of_six, ctx, input["name"], number, input["pause"])
    return 6


async def one_of_six(ctx: RunContext, name: str, number: int, pause: float) -> None:
    note(f"{name} step {number}")
    await ctx.emit_text(f"{number} ")
    await asyncio.sleep(pause)


@workflow(id="owned", scorers=[ScorerRef("s"), ScorerRef("t")])
async def owned(ctx: RunContext, input: dict[str, Any]) -> int:
    """Notes which process executes it, then says a word every now and then."""
    note(f"{input['name']} pid {os.getpid()}")
    for number in range(input["count"]):
        await ctx.emit_text(f"{number} ")
        await asyncio.sleep(input["pause"])
    return int(input["count"])


@workflow(id="kills")
async def kills(ctx: RunContext, input: str) -> None:
    """Takes its process with it."""
    note(f"{input} kills")
    await ctx.step("killing", _exit)


async def _exit() -> None:
    os._exit(9)


@workflow(id="blocks")
async def blocks(ctx: RunContext, input: dict[str, Any]) -> str:
    """Blocks the event loop of its process."""
    note(f"{input['name']} blocks")
    await ctx.emit_text("blocking ")
    time.sleep(input["seconds"])  # noqa: ASYNC251 - the point
    return "free"


@workflow(id="asks")
async def asks(ctx: RunContext, input: str) -> str:
    """Waits for a person, between two steps."""
    await ctx.step("before", noted, f"{input} before")
    answer = await ctx.suspend("question", {"about": input}, answer_type=str)
    await ctx.step("after", noted, f"{input} after")
    return str(answer)


@workflow(id="sleeps")
async def sleeps(ctx: RunContext, input: dict[str, Any]) -> str:
    """Sleeps longer than a worker waits, between two steps."""
    await ctx.step("before", noted, f"{input['name']} before")
    await ctx.sleep(input["seconds"])
    await ctx.step("after", noted, f"{input['name']} after")
    return "awake"


@workflow(id="hangs")
async def hangs(ctx: RunContext, input: str) -> None:
    """Never ends by itself."""
    await ctx.emit_text("hanging")
    note(f"{input} hangs")
    await asyncio.Event().wait()


async def noted(what: str) -> None:
    note(what)


@workflow(id="stubborn")
async def stubborn(ctx: RunContext, input: str) -> None:
    """Does not end when it is cancelled."""
    note(f"{input} is stubborn")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note(f"{input} is asked to end")


@workflow(id="dies")
async def dies(ctx: RunContext, input: dict[str, str]) -> None:
    """Takes its process with it, in one way or another."""
    note(f"{input['name']} dies")
    await ctx.step("dying", _die, input["how"])


async def _die(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    os._exit(9)


@workflow(id="innocent")
async def innocent(ctx: RunContext, input: dict[str, Any]) -> str:
    """One long step."""
    await ctx.step("long", _long, input["name"], input["seconds"])
    return "done"


async def _long(name: str, seconds: float) -> None:
    note(f"{name} begins")
    await asyncio.sleep(seconds)


@workflow(id="leaves")
async def leaves(ctx: RunContext, input: str) -> str:
    """Does what ends a process, or its loop, in the way that is asked for."""
    note(f"{input} leaves")
    loop = asyncio.get_running_loop()
    if input == "body":
        sys.exit(3)
    elif input == "step":
        await ctx.gather(a=ctx.step("a", _leave), b=ctx.step("b", asyncio.sleep, 5))
    elif input == "callback":
        loop.call_soon(sys.exit, 3)
    elif input == "background":
        kept.append(asyncio.create_task(_leave()))
    elif input == "thread":
        await asyncio.to_thread(sys.exit, 3)
    elif input == "interrupt":
        raise KeyboardInterrupt
    elif input == "stop":
        loop.stop()
    elif input == "close":
        loop.close()
    elif input == "cancel":
        for task in asyncio.all_tasks():
            task.cancel()
    await asyncio.sleep(1.0)
    return "stayed"


kept: list[asyncio.Task[Any]] = []
LEAVING = ("body", "step", "callback", "background", "thread", "interrupt", "close", "cancel")


async def _leave() -> None:
    sys.exit(3)


@workflow(id="stuck")
async def stuck(ctx: RunContext, input: str) -> None:
    """Blocks a thread, or the event loop, for longer than anybody waits."""
    if input == "own thread":
        threading.Thread(target=time.sleep, args=(300,)).start()
        note(f"{input} is stuck")
        await asyncio.Event().wait()
    elif input == "thread":
        note(f"{input} is stuck")
        await asyncio.to_thread(time.sleep, 300)
    note(f"{input} is stuck")
    time.sleep(300)  # noqa: ASYNC251 - the point


@workflow(id="reforms", scorers=[ScorerRef("s")])
async def reforms(ctx: RunContext, input: dict[str, Any]) -> Any:
    """Takes its process with it twice, so that it is a suspect, and then does as it is told."""
    name, then = input["name"], input["then"]
    if note(f"{name} begins") < 2:
        os._exit(9)
    note(f"{name} in {os.getpid()} of {os.getppid()}")
    await ctx.emit_text("reformed ")
    logging.getLogger("tests").warning("%s says so", name)
    print(f"{name} prints so", flush=True)
    if then == "ask":
        return await ctx.suspend("question", answer_type=str)
    if then == "hang":
        await asyncio.Event().wait()
    if then == "block":
        time.sleep(300)  # noqa: ASYNC251 - the point
    return os.getpid()
