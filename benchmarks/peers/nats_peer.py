"""NATS JetStream with nats-py, in the peers' own environment: `nats_peer.py COUNT publish|replay`."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nats
from nats.js.api import StorageType, StreamConfig

_BODY = b"e" * 149


async def _connected(port: int) -> Any:
    for _ in range(100):
        try:
            return await nats.connect(f"nats://127.0.0.1:{port}", connect_timeout=1, allow_reconnect=False)
        except (OSError, nats.errors.Error):
            await asyncio.sleep(0.05)
    raise TimeoutError("nats-server does not answer")


async def run(port: int, count: int, what: str) -> dict[str, float]:
    connection = await _connected(port)
    stream = connection.jetstream(publish_async_max_pending=4096)
    await stream.add_stream(StreamConfig(name="runs", subjects=["run.*"], storage=StorageType.MEMORY))
    begin = time.perf_counter()
    going = [await stream.publish_async("run.one", _BODY, wait_stall=30) for _ in range(count)]
    await asyncio.gather(*going)
    if what == "publish":
        return {"events/s": count / (time.perf_counter() - begin)}
    received, first, done = 0, 0.0, asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal received, first
        received += 1
        first = first or time.perf_counter() - begin
        if received == count:
            done.set()

    cpu, begin = time.process_time(), time.perf_counter()
    await stream.subscribe("run.one", ordered_consumer=True, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await asyncio.wait_for(done.wait(), 60)
    seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    return {"events/s": count / seconds, "first ms": 1e3 * first, "us reader": 1e6 * used / count}


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp()
    program = Path(sys.executable).parent / "nats-server"
    server = subprocess.Popen(
        [program, "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        print(json.dumps(asyncio.run(run(port, int(sys.argv[1]), sys.argv[2]))))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
