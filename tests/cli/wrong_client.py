"""A small client of its own, right or with one deliberate fault, for the conformance kit to judge.

It shares nothing with runwire.client: the kit must tell right from wrong by what a client reports.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2

FAULTS = {
    "none": "",
    "advance": "stores the cursor of a frame before it handled the frame",
    "ok-is-end": "takes OK without `ended` for the end",
    "epoch": "begins again from the start, and without a word, when the log is another one",
    "join": "does not look at the epoch of the stream that it continues",
    "restart": "does not give its cursor back after a cut",
    "skip": "loses the first event after a cut",
    "dead-cursor": "tries a refused cursor again and again",
    "babble": "reports something after the end",
}


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Client:
    """Watches one run, through cuts."""

    def __init__(self, request: dict[str, Any], fault: str) -> None:
        self.request = request
        self.fault = fault
        self.cursor: str = request["cursor"]
        self.epoch = ""
        self.connections = 0

    def follow(self) -> None:
        while True:
            try:
                if self.once():
                    return
            except grpc.RpcError as failure:
                if self.refused(failure):
                    return
            time.sleep(random.uniform(0, 0.03))

    def once(self) -> bool:
        """One stream. True at the end."""
        self.connections += 1
        with grpc.insecure_channel(self.request["target"], options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            for frame in self.frames(channel):
                kind = frame.WhichOneof("frame")
                if kind == "opened" and not self.same_log(frame.opened):
                    say({"error": "CURSOR_EPOCH_MISMATCH"})
                    return True
                if kind == "batch":
                    self.handle(frame)
                if kind == "ended":
                    say({"ended": run_pb2.RunState.Name(frame.ended.state)})
                    if self.fault == "babble":
                        say({"cursor": frame.cursor})
                    return True
        if self.fault == "ok-is-end":
            say({"ended": "RUN_STATE_SUCCEEDED"})
            return True
        return False

    def frames(self, channel: grpc.Channel) -> Iterator[pb.WatchRunResponse]:
        request = pb.WatchRunRequest(run_id=self.request["run_id"], max_batch_size=self.request["max_batch_size"])
        if self.cursor and not (self.fault == "restart" and self.connections > 1):
            request.cursor = self.cursor
        # A deadline in place of a watchdog: a frozen stream is left too, only later.
        stream: Iterator[pb.WatchRunResponse] = agent_service_pb2_grpc.AgentServiceStub(channel).WatchRun(
            request, timeout=2
        )
        return stream

    def same_log(self, opened: pb.Opened) -> bool:
        known, self.epoch = self.epoch, opened.epoch
        return known in ("", opened.epoch) or self.fault in ("epoch", "join")

    def handle(self, frame: pb.WatchRunResponse) -> None:
        if self.fault == "advance":
            self.save(frame.cursor)
        first = 1 if self.fault == "skip" and self.connections > 1 else 0
        for event in frame.batch.events[first:]:
            kind = event.WhichOneof("payload")
            fields = {"sequence": event.sequence, "attempt": event.attempt, "step": event.step}
            say({"event": {**fields, "kind": kind, "text": event.text_delta.text}})
            if not sys.stdin.readline():
                sys.exit()
        if self.fault != "advance":
            self.save(frame.cursor)

    def save(self, cursor: str) -> None:
        self.cursor = cursor
        say({"cursor": cursor})

    def refused(self, failure: grpc.RpcError) -> bool:
        """Whether to give up."""
        code = failure.code()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED):
            return False
        details = str(failure.trailing_metadata())
        reason = next((reason for reason in ("EPOCH_MISMATCH", "MALFORMED", "MISMATCH") if reason in details), "")
        if self.fault == "epoch" and reason == "EPOCH_MISMATCH":
            self.cursor = ""
            return False
        if self.fault == "dead-cursor":
            return False
        say({"error": f"CURSOR_{reason}" if reason else code.name})
        return True


if __name__ == "__main__":
    while line := sys.stdin.readline():
        Client(json.loads(line), sys.argv[1]).follow()
