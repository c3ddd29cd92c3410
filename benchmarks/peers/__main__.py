"""Runwire beside its peers, in interleaved rounds on this machine, with the same client technology on both sides.

    make bench-peers                        three rounds, into .bench/results
    make bench-peers ARGS=--quick           one short round
    make bench-peers ARGS="--only live"     live, replay (with bursts), or loads (those without a peer)
    make bench-peers ARGS=--publish         into docs/benchmarks and docs/benchmarks.md

Absolute figures are this machine's. What counts are the ratios inside one table, and processor time an event.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.peers import loads, sides
from benchmarks.peers.install import FOLDER, NODE, PYTHON, ROOT, install
from benchmarks.peers.measured import Measured
from tests.servers import RedisBinary, RedisServer, redis_servers, start_redis

_SHAPES: Final = ((20, 20), (200, 200), (400, 400), (1, 200), (1, 1000))
"""Runs and readers."""
_QUICK_SHAPES: Final = ((20, 20), (200, 200), (1, 200))
_BASELINE: Final = "Mastra on Redis"
_PAGE: Final = ROOT / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- bench-peers -->\n", "<!-- end -->"


def live(measured: Measured, binary: RedisBinary, shapes: tuple[tuple[int, int], ...], seconds: int) -> None:
    """Runs at 50 events a second each, and readers of them. Each side has a Redis of its own."""
    for runs, readers in shapes:
        shape = f"live, {runs} runs, {readers} readers"
        with _redis(binary) as redis:
            figures = sides.runwire_live(redis.url, redis.pid, runs, readers, seconds)
            measured.add(shape, "Runwire on Redis, gRPC", figures)
        with _redis(binary) as redis:
            figures = sides.mastra_live(redis.port, redis.pid, runs, readers, seconds)
            measured.add(shape, f"{_BASELINE}, Server-Sent Events", figures)


def replay(measured: Measured, binary: RedisBinary, count: int) -> None:
    """One long run: written as fast as it goes, then read from its beginning."""
    with _redis(binary) as redis, tempfile.TemporaryDirectory() as folder:
        stores = {"Redis": redis.url, "SQLite": f"sqlite:///{folder}/runs.db", "memory": "memory://"}
        for name, store in stores.items():
            for found in sides.runwire_replay(name, store, count):
                measured.add(*found)
        for found in sides.mastra_replay(redis.port, count):
            measured.add(*found)
    for found in (*sides.durable_streams_replay(count), *sides.nats_replay(count)):
        measured.add(*found)


def alone(measured: Measured, binary: RedisBinary, growth: tuple[int, ...], seconds: int) -> None:
    """Loads for which there is no peer here; each has a service and a Redis of its own."""
    for runs in growth:
        with _redis(binary) as redis:
            rate = loads.RATE / runs
            figures = asyncio.run(loads.growth(redis.url, redis.pid, runs, rate, seconds))
            measured.add(f"growth, {loads.RATE:,} events/s of all runs together", f"Runwire, {runs:,} runs", figures)
    runs, rate = loads.FULL
    for processes in loads.PROCESSES:
        with _redis(binary) as redis:
            figures = asyncio.run(loads.growth(redis.url, redis.pid, runs, rate, seconds, processes))
            measured.add(
                f"a full core, {runs} runs, {rate} events/s of each", f"Runwire, --processes {processes}", figures
            )
    for name, load in (
        ("500 streams opened while 500 follow", loads.opening),
        ("500 readers cut at once, and back with their cursors", loads.resuming),
        ("5,000 idle streams", loads.idle),
        ("runs that do nothing, started and followed to their end, 32 at a time", loads.run_rate),
    ):
        with _redis(binary) as redis:
            measured.add(name, "Runwire on Redis", asyncio.run(load(redis.url)))


@contextmanager
def _redis(binary: RedisBinary) -> Iterator[RedisServer]:
    """A Redis of its own, until the block is left."""
    server = start_redis(binary)
    try:
        yield server
    finally:
        server.close()


def about(binary: RedisBinary, rounds: int) -> Mapping[str, str]:
    """The machine and the versions."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    ours = ("grpcio", "redis", "hiredis", "uvloop", "protobuf")
    return {
        "machine": f"{cores} cores, {platform.machine()}, Linux {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "Node": node,
        "Redis": binary.name,
        **{name: version(name) for name in ours},
        "peers": (NODE / "package.json").read_text().partition('"dependencies": ')[2].strip(" \n}").replace("\n", ""),
        "rounds": str(rounds),
        "load average before": f"{os.getloadavg()[0]:.1f}",
    }


def publish(measured: Measured, said: Mapping[str, str], folder: Path) -> None:
    """Writes JSON and plots into a folder, and the tables into a page or, elsewhere, beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "peers.json"
    measured.write(results, said)
    subprocess.run([str(PYTHON), str(Path(__file__).parent / "plot.py"), str(results), str(folder)], check=True)
    facts = "; ".join(f"{name} {value}" for name, value in said.items() if name != "peers")
    text = "\n".join([f"Medians. {facts}.", "", *measured.markdown(_BASELINE)])
    if folder.is_relative_to(_PAGE.parent):
        before, _, rest = _PAGE.read_text().partition(_BEGIN)
        _PAGE.write_text(f"{before}{_BEGIN}{text}{_END}{rest.partition(_END)[2]}")
    else:
        (folder / "peers.md").write_text(text)
    print(f"written to {folder}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["live", "replay", "loads"])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--publish", action="store_true", help="write into docs/")
    given = parser.parse_args()
    install()
    binary = next(binary for binary in redis_servers() if binary.path is not None)
    measured, rounds = Measured(), 1 if given.quick else given.rounds
    said = about(binary, rounds)
    for _ in range(rounds):
        if given.only in (None, "live"):
            live(measured, binary, _QUICK_SHAPES if given.quick else _SHAPES, 2 if given.quick else 5)
        if given.only in (None, "replay"):
            replay(measured, binary, 20_000 if given.quick else 100_000)
        if given.only in (None, "loads"):
            alone(measured, binary, loads.GROWTH[:2] if given.quick else loads.GROWTH, 2 if given.quick else 5)
    folder = ROOT / "docs" / "benchmarks" if given.publish else FOLDER / "results"
    publish(measured, said, folder)


if __name__ == "__main__":
    main()
