"""A fake executor: takes events over HTTP, and reports by gRPC. It loses, doubles and delays, and it dies."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import grpc

from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.scorer.v1 import scorer_service_pb2_grpc


class Executor:
    """Of a fifth of the events nothing is ever heard, a fifth is reported twice, and a fifth late."""

    def __init__(self, service: str, lease_seconds: float, *, faulty: bool = True) -> None:
        self._service = service
        self._lease_seconds = lease_seconds
        self._faulty = faulty
        self._tasks: asyncio.TaskGroup
        self.requests: list[tuple[dict[str, str], Any]] = []
        """Headers and body of each."""
        self.answers: Counter[str] = Counter()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Executor:
        self._channel = grpc.aio.insecure_channel(self._service)
        self._stub: Any = scorer_service_pb2_grpc.ScorerServiceStub(self._channel)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()
        await self._channel.close()

    async def start(self) -> None:
        self._lives = asyncio.TaskGroup()
        await self._lives.__aenter__()
        self._forever = self._lives.create_task(asyncio.Event().wait())
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """What it has in its hands is gone."""
        assert self._server is not None
        self._server.close()
        self._forever.cancel()
        for task in list(self._lives._tasks):
            task.cancel()
        await self._lives.__aexit__(None, None, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")[1:]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append((headers, body))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            self._lives.create_task(self._carry_out(body))
        except (RuntimeError, ConnectionError, asyncio.IncompleteReadError):
            pass  # it is dying
        finally:
            writer.close()

    async def _carry_out(self, body: bytes) -> None:
        event = json.loads(body)
        data = (event[0] if isinstance(event, list) else event)["data"]
        fate = random.random() if self._faulty else 1.0
        if fate < 0.2:
            return
        if fate >= 0.4 and fate < 0.6:
            await asyncio.sleep(random.uniform(0.8, 1.6) * self._lease_seconds)
        for _ in range(2 if fate < 0.4 else 1):
            await self._report(data)

    async def _report(self, data: dict[str, Any]) -> None:
        report = pb.ReportScorerRunRequest(
            worker=data["worker"],
            scorer_run_id=data["scorer_run_id"],
            claim=data["claim"],
            scorer_version=data["scorer_version"],
        )
        report.score.value = len(data["sample"]["output"])
        try:
            await self._stub.ReportScorerRun(report)
        except grpc.aio.AioRpcError as error:
            self.answers[error.code().name] += 1
        else:
            self.answers["OK"] += 1
