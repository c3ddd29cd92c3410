"""A Python reader of Runwire, in a process of its own: `python -m benchmarks.peers.runwire_reader ADDRESS HOW WHAT`.

`burst COUNT` starts a run that emits so many events and watches it to its end; `parse`, `touch` (every event) and
`watch` (by AgentClient) read a RUN from its beginning. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.client import AgentClient
from runwire.values import to_value

_TEXT_BYTES = 118
"""Makes an event of 149 bytes."""


async def burst(address: str, count: int) -> dict[str, object]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        load = to_value({"count": count, "size": _TEXT_BYTES})
        begin = time.perf_counter()
        run = (await stub.StartRun(pb.StartRunRequest(agent_id="emitter", input=load))).run.run_id
        async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=run)):
            pass
        return {"run": run, "rate": count / (time.perf_counter() - begin)}


async def read(address: str, how: str, run: str) -> dict[str, object]:
    touched = 0
    async with grpc.aio.insecure_channel(address) as channel, AgentClient(address) as client:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        await stub.ListAgents(pb.ListAgentsRequest())  # connected
        await client.get_run(run)
        cpu, begin, first, events = time.process_time(), time.perf_counter(), 0.0, 0
        if how == "watch":
            async for event in client.watch(run):
                events += 1
                touched += len(event.text_delta.text)
                first = first or time.perf_counter() - begin
        else:
            async for frame in stub.WatchRun(pb.WatchRunRequest(run_id=run)):
                events += len(frame.batch.events)
                if events:
                    first = first or time.perf_counter() - begin
                if how == "touch":
                    for event in frame.batch.events:
                        touched += event.sequence + len(event.text_delta.text)
        seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    return {"events": events, "rate": events / seconds, "first_ms": 1e3 * first, "us": 1e6 * used / events}


def main() -> None:
    address, how, what = sys.argv[1:]
    print(json.dumps(asyncio.run(burst(address, int(what)) if how == "burst" else read(address, how, what))))


if __name__ == "__main__":
    main()
