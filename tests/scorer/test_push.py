"""Scorer runs that are pushed: what is posted, and where to."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runwire.errors import ConfigurationError
from runwire.scorer.v1 import scorer_run_pb2 as S
from scorer_service import app, config
from scorer_service.push.dispatcher import AT_ONCE
from scorer_service.push.events import signature
from scorer_service.push.posting import NotTaken, is_public, post
from scorer_service.push.targets import Target, load
from tests.scorer.executor import Executor
from tests.scorer.stage import LIMIT_SECONDS, Service, request, service

GIVEN: dict[str, Any] = {"scorer_id": "pushed", "version": "1", "allow_private": True, "lease_seconds": 60}


@asynccontextmanager
async def dispatching(results: str, folder: Path, *targets: dict[str, Any]) -> AsyncIterator[None]:
    """`--role dispatch` beside the service."""
    path = folder / "targets.jsonl"
    path.write_text("".join(json.dumps({**GIVEN, **each}) + "\n" for each in targets))
    given = {"scorer_role": "dispatch", "scorer_push_targets": str(path), "listen": "127.0.0.1:0"}
    settings = config.load(results=results, scorer_migrate=True, **given)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(app.run(settings, ready.set_result, stopping))
        async with asyncio.timeout(LIMIT_SECONDS):
            await ready
        try:
            yield
        finally:
            stopping.set()


@pytest.mark.parametrize("executor", ["webhook", "inngest"])
async def test_what_is_posted(executor: str, sqlite_url: str, tmp_path: Path) -> None:
    """A webhook gets a CloudEvent 1.0, signed; Inngest gets what its event API takes. Both name the claim, and a report
    under it is the score."""
    async with service(sqlite_url) as it, Executor(it.address, 60.0, faulty=False) as place:
        target = {"executor": executor, "url": f"http://127.0.0.1:{place.port}/e/key?x=1", "secret": "s3cret"}
        async with dispatching(sqlite_url, tmp_path, target):
            run = await it.score(request("pushed", options={"strict": True}))
    assert (run.state, run.score.value) == (S.SCORER_RUN_STATE_SUCCEEDED, len("A cursor is a position."))
    ((headers, body),) = place.requests
    event = json.loads(body)
    data = (event[0] if executor == "inngest" else event)["data"]
    assert data["worker"].startswith("push:")
    assert (data["claim"], data["scorer_version"], data["options"]) == (1, "1", {"strict": True})
    assert data["sample"]["output"] == "A cursor is a position."
    key = f"{run.scorer_run_id}:1"
    if executor == "inngest":
        (one,) = event
        assert headers["content-type"] == "application/json"
        assert one.keys() == {"id", "name", "data", "ts"}
        assert (one["id"], one["name"], type(one["ts"])) == (key, "scorer.run.requested", int)
    else:
        assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"
        assert (event["specversion"], event["id"], event["subject"]) == ("1.0", key, "run-1")
        assert (event["type"], event["source"]) == ("dev.runwire.scorer.run.requested", "/runwire/scorers/pushed")
        seconds = int(headers["runwire-signature"].split(",")[0].removeprefix("t="))
        assert headers["runwire-signature"] == signature("s3cret", body, seconds)


async def test_a_target_that_is_away(it: Service, sqlite_url: str, tmp_path: Path) -> None:
    """What it does not take is handed back and waits, without an attempt, and holds up no other target; the log says so
    without the key in the URL."""
    async with Executor(it.address, 60.0, faulty=False) as place:
        good = {"executor": "webhook", "url": f"http://127.0.0.1:{place.port}/"}
        away = {"executor": "webhook", "scorer_id": "away", "url": "http://127.0.0.1:9/e/topsecret"}
        async with dispatching(sqlite_url, tmp_path, away, good):
            message = request("away")
            await it.send(message)
            assert (await it.score(request("pushed"))).state == S.SCORER_RUN_STATE_SUCCEEDED
            waiting = await it.until(message.scorer_run_id, "RETRYING")
    assert (waiting.error.reason, waiting.waits, len(waiting.attempts)) == ("executor_unavailable", 1, 0)
    assert "topsecret" not in waiting.error.message


async def test_a_sample_that_no_event_can_hold(it: Service, sqlite_url: str, tmp_path: Path) -> None:
    """A number that JSON does not have ends its scorer run, FAILED, and none of those that were claimed with it."""
    async with Executor(it.address, 60.0, faulty=False) as place:
        bad, good = request("pushed", "bad"), request("pushed", "good")
        bad.sample.output.number_value = math.nan
        for message in (bad, good):
            await it.send(message)
            await it.until(message.scorer_run_id, "PENDING")
        async with dispatching(sqlite_url, tmp_path, {"executor": "webhook", "url": f"http://127.0.0.1:{place.port}/"}):
            assert (await it.until(good.scorer_run_id, "SUCCEEDED")).deliveries == 1
            failed = await it.until(bad.scorer_run_id, "FAILED")
    assert failed.error.reason == "sample_unreadable"


async def test_a_target_that_never_answers(it: Service, sqlite_url: str, tmp_path: Path) -> None:
    """One that takes all connections that it may have, and says nothing, holds up no other target."""
    held, gone, full = [], [], asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        if len(held) == AT_ONCE:
            full.set()
        while await reader.read(65_536):
            pass
        gone.append(writer)

    async with (
        Executor(it.address, 60.0, faulty=False) as place,
        await asyncio.start_server(silent, "127.0.0.1", 0) as server,
    ):
        messages = [request("silent", f"silent-{number}") for number in range(AT_ONCE)]
        for message in messages:
            await it.send(message)
        for message in messages:
            await it.until(message.scorer_run_id, "PENDING")
        good = {"executor": "webhook", "url": f"http://127.0.0.1:{place.port}/"}
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with dispatching(sqlite_url, tmp_path, {"executor": "webhook", "scorer_id": "silent", "url": url}, good):
            await full.wait()
            assert (await it.score(request("pushed"))).state == S.SCORER_RUN_STATE_SUCCEEDED
            assert not gone, "it was scored only once others had been given up"
            for writer in held:
                writer.close()


@pytest.fixture
async def it(sqlite_url: str) -> AsyncIterator[Service]:
    async with service(sqlite_url) as started:
        yield started


async def test_where_nothing_is_posted_to() -> None:
    """An address of somebody's own network is not dialled unless the operator says so, whatever name leads there; a
    redirect is not followed."""
    private = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:10.0.0.1"]
    private += ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"]
    assert not any(map(is_public, [*private, "0.0.0.0", "100.64.0.1", "224.0.0.1", "fd00::1"]))
    assert is_public("8.8.8.8")
    assert is_public("2606:4700::1111")
    asked = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        url = f"http://localhost:{server.sockets[0].getsockname()[1]}/secret-key"
        for allow, words in ((False, "is not public"), (True, "HTTP 302")):
            target = Target(**{**GIVEN, "executor": "webhook", "url": url, "allow_private": allow})
            with pytest.raises(NotTaken, match=words) as caught:
                await asyncio.to_thread(post, target, b"{}", {})
            assert "secret-key" not in str(caught.value)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "no JSON"),
        ('{"scorer_id": "a", "version": "1", "executor": "webhook", "url": "file:///etc/passwd"}', "url"),
        ('{"scorer_id": "a", "version": "1", "executor": "webhook", "url": "http://u:topsecret@x/"}', "url"),
        ('{"scorer_id": "a", "version": "1", "executor": "webhook", "url": "http://x:99999/"}', "url"),
        ('{"scorer_id": "a", "version": "1", "executor": "webhook", "url": "http://x:topsecret/"}', "url"),
        ('{"scorer_id": "a", "version": "1", "executor": "webhook", "url": "http://[topsecret]/"}', "url"),
        ('{"scorer_id": "a", "version": "1", "executor": "fax", "url": "http://x/"}', "executor"),
        ('{"scorer_id": "a", "version": "1", "executor": "webhook", "url": "http://x/", "follow": true}', "follow"),
        ("", "there is no target"),
    ],
)
def test_wrong_targets(tmp_path: Path, line: str, words: str) -> None:
    """Each is told in one line with its place, and nothing of what stands there."""
    path = tmp_path / "targets.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigurationError, match=re.escape(words)) as caught:
        load(str(path))
    assert "topsecret" not in str(caught.value)
