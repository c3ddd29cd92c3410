"""A reader whose connection is cut again and again, and who continues from its last cursor, anywhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from runwire import frames
from runwire.agent.v1 import agent_service_pb2 as pb

SERVICE = "/runwire.agent.v1.AgentService/"
LIMIT_SECONDS = 20.0
_CURSOR, _BATCH, _ENDED = 1, 3, 8


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a message that has only length-delimited ones, nothing parsed or encoded
    again."""
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        assert tag & 7 == 2
        length, offset = _varint(message, offset)
        yield tag >> 3, message[offset : offset + length]
        offset += length


def _varint(message: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return value, offset


class CutReader:
    """Joins the events of one run, as bytes, over streams that end early."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], run_id: str, chance: random.Random) -> None:
        self.events: list[bytes] = []
        self.cuts = 0
        self.ended = False
        self._calls = [
            channel.unary_stream(f"{SERVICE}WatchRun", pb.WatchRunRequest.SerializeToString) for channel in channels
        ]
        self._run_id = run_id
        self._chance = chance
        self._cursor = ""

    async def read(self, most_frames: int) -> None:
        """Opens one stream, on any of the servers, and cuts it after so many frames."""
        request = pb.WatchRunRequest(run_id=self._run_id, max_batch_size=self._chance.randint(1, 40))
        if self._cursor:
            request.cursor = self._cursor
        call: Any = self._chance.choice(self._calls)(request, wait_for_ready=True)
        try:
            for _ in range(most_frames):
                async with asyncio.timeout(LIMIT_SECONDS):
                    frame = await call.read()
                assert frame is not grpc.aio.EOF, "status OK without `ended`"
                self._take(frame)
                if self.ended:
                    assert await call.read() is grpc.aio.EOF
                    assert await call.code() is grpc.StatusCode.OK
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            # The server or its store was cut off, not we.
            await asyncio.sleep(self._chance.uniform(0, 0.1))
        finally:
            call.cancel()
        self.cuts += 1

    def _take(self, frame: bytes) -> None:
        for number, data in fields(frame):
            if number == _CURSOR:
                self._cursor = data.decode()
            elif number == _BATCH:
                self.events += frames.events(data)
            elif number == _ENDED:
                self.ended = True


async def listed(channel: grpc.aio.Channel, run_id: str) -> list[bytes]:
    """The events of a run as ListRunEvents pages them, as bytes."""
    call = channel.unary_unary(f"{SERVICE}ListRunEvents", pb.ListRunEventsRequest.SerializeToString)
    request, found = pb.ListRunEventsRequest(run_id=run_id, page_size=300), []
    while True:
        async with asyncio.timeout(LIMIT_SECONDS):
            page = list(fields(await call(request)))
        found += [data for number, data in page if number == 1]
        request.page_token = next((data.decode() for number, data in page if number == 2), "")
        if not request.page_token:
            return found
