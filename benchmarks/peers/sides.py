"""Each side of each shape: its servers started, its readers run, the processor time of every process taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final

from benchmarks.peers.install import NODE, PYTHON, ROOT
from benchmarks.peers.measured import Figures
from benchmarks.processes import cpu_seconds, service

RATE: Final = 50
"""Events a second of each run that is live."""
_PROTOS: Final = ROOT / "proto"
_LIMIT_SECONDS: Final = 120


@contextmanager
def node(script: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A script of ours in Node, ended at the end."""
    process = subprocess.Popen(
        ["node", script, *map(str, words)], cwd=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _last_line(command: list[str], **where: Any) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=True, **where)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# Live


def runwire_live(store: str, redis: int, runs: int, readers: int, seconds: int) -> Figures:
    """Worker and server in one process."""
    with service("agent_service", agents="benchmarks.agents", store=store, concurrency=2000) as (address, pid):
        words = (address, _PROTOS, runs, readers, RATE, seconds)
        with node("runwire_live.mjs", *words) as reader:
            return _window(reader, {"server": pid, "redis": redis, "reader": reader.pid}, seconds)


def mastra_live(port: int, redis: int, runs: int, readers: int, seconds: int) -> Figures:
    """Publisher and server in one process; readers of Server-Sent Events."""
    with node("mastra_live.mjs", port, runs, RATE) as server:
        url = _read_line(server.stdout)
        with node("sse_live.mjs", url, runs, readers, seconds) as reader:
            pids = {"server": server.pid, "redis": redis, "reader": reader.pid}
            return _window(reader, pids, seconds, opened=lambda: _go(server.stdin))


def _go(stdin: IO[str] | None) -> None:
    assert stdin is not None
    stdin.write("go\n")
    stdin.flush()


def _read_line(stdout: IO[str] | None) -> str:
    assert stdout is not None
    return stdout.readline().strip()


def _window(
    reader: subprocess.Popen[str], pids: Mapping[str, int], seconds: int, opened: Callable[[], None] = lambda: None
) -> Figures:
    """Takes processor time between the two words of a live reader (node/window.mjs), and its figures."""
    before: dict[str, float] = {}
    spent: dict[str, float] = {}
    assert reader.stdout is not None
    for line in map(str.strip, reader.stdout):
        if line == "open":
            opened()
        elif line == "measure":
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        elif line == "end":
            spent = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        elif line.startswith("{"):
            said = json.loads(line)
            events = max(1, said["received"])
            return {
                "p50 ms": said["p50"] or float("nan"),
                "p99 ms": said["p99"] or float("nan"),
                "events/s": said["received"] / seconds,
                **{f"us {name}": 1e6 * used / events for name, used in spent.items()},
                "whole": float(said["whole"]),
            }
    raise RuntimeError(f"the reader ended without a word: exit {reader.wait()}")


# Bursts and replay


def runwire_replay(name: str, store: str, count: int) -> Iterator[tuple[str, str, Figures]]:
    """A run that emits `count` events as fast as it goes, watched to its end; then read again, by both clients."""
    with service("agent_service", agents="benchmarks.agents", store=store) as (address, pid):
        python = [sys.executable, "-m", "benchmarks.peers.runwire_reader", address]
        burst = _last_line([*python, "burst", str(count)], cwd=ROOT)
        yield "burst", f"Runwire, {name}: emitted and watched to the end", {"events/s": burst["rate"]}
        run = str(burst["run"])
        readers = {
            "Python, parsed": [*python, "parse", run],
            "Python, every event touched": [*python, "touch", run],
            "Python, AgentClient.watch": [*python, "watch", run],
            "Node, every event touched": ["node", "runwire_replay.mjs", address, str(_PROTOS), run],
        }
        for who, command in readers.items():
            before = cpu_seconds(pid)
            said = _last_line(command, cwd=NODE if command[0] == "node" else ROOT)
            server = 1e6 * (cpu_seconds(pid) - before) / said["events"]
            figures = {"events/s": said["rate"], "first ms": said["first_ms"], "us reader": said["us"]}
            yield "replay", f"Runwire, {name}: {who}", figures | {"us server": server}


def mastra_replay(port: int, count: int) -> Iterator[tuple[str, str, Figures]]:
    """Published one by one and 256 in flight; then read over Server-Sent Events."""
    with node("mastra_replay.mjs", port, count) as server:
        published = json.loads(_read_line(server.stdout))
        yield "burst", "Mastra on Redis: published one by one", {"events/s": published["one_by_one"]}
        yield "burst", "Mastra on Redis: published, 256 in flight", {"events/s": published["in_flight"]}
        before = cpu_seconds(server.pid)
        said = _last_line(["node", "sse_replay.mjs", published["url"], str(count)], cwd=NODE)
        used = 1e6 * (cpu_seconds(server.pid) - before) / count
        figures = {"events/s": said["rate"], "first ms": said["first_ms"], "us reader": said["us"], "us server": used}
        yield "replay", "Mastra on Redis: Node, Server-Sent Events, parsed", figures


def durable_streams_replay(count: int) -> Iterator[tuple[str, str, Figures]]:
    """Its own server, in memory."""
    said = _last_line(["node", "durable_streams.mjs", str(count)], cwd=NODE)
    yield "replay", "Durable Streams, memory: Node, HTTP, parsed", said


def nats_replay(count: int) -> Iterator[tuple[str, str, Figures]]:
    """An ordered consumer of a stream in memory."""
    yield "burst", *_nats(count, "publish")
    yield "replay", *_nats(count, "replay")


def _nats(count: int, what: str) -> tuple[str, Figures]:
    names = {
        "publish": "NATS JetStream, memory: published, 4,096 in flight",
        "replay": "NATS JetStream, memory: nats-py",
    }
    script = str(ROOT / "benchmarks/peers/nats_peer.py")
    return names[what], _last_line([str(PYTHON), script, str(count), what])
