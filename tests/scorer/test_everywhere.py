"""The same scorer runs, in the service's own workers and in workers elsewhere: each is scored exactly once."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from runwire.connect import open_store
from scorer_service.push.dispatcher import dispatch
from scorer_service.push.targets import Target
from scorer_service.results.database import open_database
from scorer_service.results.records import State
from tests.scorer.executor import Executor
from tests.scorer.processes import ScorerProcess
from tests.scorer.stage import request, send, service
from tests.scorer.test_chaos import count_results, counts, persisted_lost_and_refused, until_all_ended

SETTINGS = {"scorer_lease_seconds": 1.0, "scorer_max_losses": 100, "scorer_retries": 100}
_seeds = itertools.count(1)
Replace = Callable[[], None]


@asynccontextmanager
async def inside(results: str, store: str) -> AsyncIterator[Replace]:
    """Two processes of the service; gives what kills one and starts another."""
    environment = {
        "RUNWIRE_STORE": store,
        "RUNWIRE_RESULTS": results,
        "RUNWIRE_SCORERS": "tests.scorer.chaotic",
        **{f"RUNWIRE_{name.upper()}": str(value) for name, value in SETTINGS.items()},
    }
    with ExitStack() as stack:
        processes = [stack.enter_context(ScorerProcess(environment=environment)) for _ in range(2)]
        for process in processes:
            process.ready()

        def replace() -> None:
            processes.pop(0).kill()
            processes.append(stack.enter_context(ScorerProcess(environment=environment)))

        yield replace


@asynccontextmanager
async def pull(results: str, store: str) -> AsyncIterator[Replace]:
    """The service without the scorer, and two processes that claim and report."""
    async with service(results, store=store, scorers="tests.scorer.scorers", **SETTINGS) as it:
        processes: list[subprocess.Popen[str]] = []

        def start() -> None:
            command = [sys.executable, "-m", "tests.scorer.pulling", it.address, str(next(_seeds))]
            processes.append(subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL))

        def replace() -> None:
            one = processes.pop(0)
            one.kill()
            one.wait()
            start()

        start()
        start()
        try:
            yield replace
        finally:
            for process in processes:
                process.kill()
                process.wait()


@asynccontextmanager
async def push(results: str, store: str) -> AsyncIterator[Replace]:
    """The service, a dispatcher, and an executor that loses, doubles, delays and dies."""
    loop = asyncio.get_running_loop()
    async with (
        service(results, store=store, scorers="tests.scorer.scorers", **SETTINGS) as it,
        Executor(it.address, 1.0) as executor,
        open_database(results) as database,
        asyncio.TaskGroup() as group,
    ):
        target = Target(
            scorer_id="chaotic",
            version="1",
            executor="webhook",
            url=f"http://127.0.0.1:{executor.port}/",
            lease_seconds=1.0,
            max_silences=100,
            allow_private=True,
        )
        dispatching = group.create_task(dispatch(database, [target], "test"))

        async def die_and_return() -> None:
            await executor.die()
            await executor.start()

        yield lambda: asyncio.run_coroutine_threadsafe(die_and_return(), loop).result(20)
        dispatching.cancel()


WAYS = {"inside": inside, "pull": pull, "push": push}


async def each_exactly_once(way: str, results: str, store_url: str, total: int, *, kill_every: int) -> str:
    """Sends requests, kills a worker each time so many have ended, and holds the database to what it wrote."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(results))
        store = await stack.enter_async_context(open_store(store_url))
        await count_results(database)
        await send(store, [request("chaotic", f"run-{number}") for number in range(total)])
        replace = await stack.enter_async_context(WAYS[way](results, store_url))
        kills = 0

        async def now_and_then() -> None:
            nonlocal kills
            if (await counts(database)).get(State.SUCCEEDED, 0) >= (kills + 1) * kill_every:
                kills += 1
                await asyncio.to_thread(replace)

        await until_all_ended(database, total, now_and_then, 280)
        persisted, lost, refused = await persisted_lost_and_refused(database)
        assert await counts(database) == {State.SUCCEEDED: total}
    assert Counter(persisted.values()) == {1: total}
    if way != "inside":
        assert lost > 0
        assert refused > 0
    return f"{way}: {total} scorer runs, {kills} kill -9, {lost} leases lost, {refused} late reports refused"


@pytest.mark.parametrize("way", ["pull", "push"])
async def test_each_is_scored_exactly_once(way: str, sqlite_url: str, tmp_path: Path) -> None:
    """300 scorer runs in workers elsewhere, or in an executor, whose reports are lost, doubled and late, and which are
    killed: each is scored, its score is written once, and what comes late is refused and counted."""
    await each_exactly_once(way, sqlite_url, f"sqlite:///{tmp_path}/runs.db", 300, kill_every=100)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", list(WAYS))
async def test_ten_thousand(way: str, results_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with 10,000, and with the workers of the service itself."""
    told = await each_exactly_once(way, results_url, f"sqlite:///{tmp_path}/runs.db", 10_000, kill_every=1000)
    with capsys.disabled():
        print(f"\n{told}")
