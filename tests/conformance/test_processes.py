"""Several processes on the same data, and processes that die."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runwire.connect import open_store
from runwire.pubsub import Store
from tests.conformance.child import TOPICS_OF_A_CHILD
from tests.conformance.logs import LIMIT_SECONDS, LONG_SECONDS, Inbox, append, dense, fields, read_all, start, started

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process, killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.child", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """The next lines that a child says."""
    assert process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        found = [(await process.stdout.readline()).decode().strip() for _ in range(count)]
    assert all(found), "the child ended early"
    return found


async def rest(process: asyncio.subprocess.Process) -> list[str]:
    """What a child that ends has still to say, without a line that was cut."""
    assert process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        return (await process.stdout.read()).decode().splitlines(keepends=True)


async def test_a_killed_writer_leaves_whole_commits(process_url: str) -> None:
    """kill -9 in the middle of a stream of commits: everything that was acknowledged is there, every log is dense,
    and the field, the message and the events of each commit came together."""
    for round_ in range(3):
        name = f"killed-{round_}"
        async with child(process_url, "append", name) as process:
            said = await lines(process, 100 + 37 * round_)
            process.send_signal(signal.SIGKILL)
            said += [line.strip() for line in await rest(process) if line.endswith("\n")]
        acknowledged = {topic: int(last) for topic, last in (line.split() for line in said)}
        assert len(acknowledged) == TOPICS_OF_A_CHILD
        async with open_store(process_url) as store:
            for topic, last in acknowledged.items():
                await check_whole(store, topic, last)


async def check_whole(store: Store, topic: str, acknowledged: int) -> None:
    events = await read_all(store, topic)
    assert len(events) >= acknowledged
    assert (await fields(store, topic))["count"] == b"%d" % len(events)
    ends = [entry.last for entry in (await store.read(topic, 0, max_events=10**6, max_bytes=10**9)).entries]
    messages = await store.receive(topic, consumer="c", limit=10_000, lease_seconds=LONG_SECONDS)
    assert [int(message.body) for message in messages] == ends


async def test_two_processes_share_the_work(process_url: str) -> None:
    """Two processes claim, append and finish on the same data: every topic is done once, by one of them, in whole."""
    topics = [f"default/run-{number:02}" for number in range(40)]
    async with open_store(process_url) as store:
        await asyncio.gather(*(start(store, topic) for topic in topics))
        async with child(process_url, "work", "a") as first, child(process_url, "work", "b") as second:
            said = [*await rest(first), *await rest(second)]
            assert (await first.wait(), await second.wait()) == (0, 0)
        assert sorted(said) == sorted(f"{topic} 1\n" for topic in topics)
        for topic in topics:
            stored = await store.get(topic)
            assert stored is not None
            assert (stored.head.attempt, stored.head.final) == (1, 4)
            assert stored.fields["half"] == b"1"
            assert len(await read_all(store, topic)) == 4
        messages = await store.receive("finished", consumer="c", limit=100, lease_seconds=LONG_SECONDS)
        assert sorted(message.body.decode() for message in messages) == topics


async def test_events_of_another_process_come_live(process_url: str) -> None:
    """A subscriber in one process gets what another process appends, without asking for it."""
    inbox = Inbox()
    async with open_store(process_url) as store, child(process_url, "append", "live") as process:
        await lines(process, 1)
        async with store.pubsub.subscribe("default/live-0", inbox.deliver):
            await inbox.until(lambda: len(inbox.entries) >= 20)
            process.kill()
        kept = (await store.read("default/live-0", 0, max_events=10**6, max_bytes=10**9)).entries
    assert all(entry in kept for entry in inbox.entries)
    dense(inbox.entries[:20], inbox.entries[0].first - 1)


async def test_what_was_committed_outlives_its_process(process_url: str) -> None:
    """All connections closed and opened again: the log, its fields and its schedule are as they were."""
    async with open_store(process_url) as store:
        claim = await started(store, "default/kept", puts={"a": b"1"}, indexes=["all"])
        await append(store, "default/kept", 1, 1, 3)
        await start(store, "default/due")
    async with asyncio.timeout(LIMIT_SECONDS), open_store(process_url) as store:
        stored = await store.get("default/kept")
        assert stored is not None
        assert (stored.head.epoch, stored.head.attempt, stored.head.last) == (claim.head.epoch, 1, 3)
        assert stored.fields == {"a": b"1"}
        assert len(await read_all(store, "default/kept")) == 3
        assert [found.topic for found in (await store.scan("all", fields=[])).found] == ["default/kept"]
        claims = await store.claim(["runs"], holder="somebody", limit=9, lease_seconds=LONG_SECONDS)
        assert [claimed.topic for claimed in claims] == ["default/due"]
