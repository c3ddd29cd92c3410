"""`python -m scorer_service.execution.child MODULE...`: the process of scorers with `process=True`. See `processes`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import queue
import signal
import sys
import threading
from functools import cache
from typing import Any, BinaryIO

from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from scorer_service.execution.outcomes import (
    MAX_STEPS_BYTES,
    class_name,
    delay_of,
    is_beyond,
    reason_of,
    record_of,
    words,
)
from scorer_service.execution.processes import HEADER_BYTES
from scorer_service.meter import METER, Meter
from scorer_service.registry import Registry, load
from scorer_service.samples import from_wire
from scorer_service.scoring import (
    BadScore,
    Judge,
    NonRetriableError,
    NotScorable,
    ProviderUnavailable,
    RetryAfter,
    evaluate,
)


def main(modules: list[str]) -> None:
    # A Ctrl-C, or what ends a whole group of processes, is for the service: it decides what becomes of our work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What a scorer prints must not mix with our answers: they get the real standard output to themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=1)
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), name="requests", daemon=True).start()
    registry = load(modules)
    _send(answers, {"ready": True})
    while True:
        _send(answers, _answer(registry, requests.get(), answers))


def _read(stream: BinaryIO, requests: queue.Queue[dict[str, Any]]) -> None:
    """Takes requests in. Their end is that of the service, and ends this process in the middle of whatever it does."""
    try:
        while header := stream.read(HEADER_BYTES):
            requests.put(json.loads(stream.read(int.from_bytes(header, "big"))))
    finally:
        os._exit(0)


def _answer(registry: Registry, request: dict[str, Any], answers: BinaryIO) -> dict[str, Any]:
    scorer = registry.find(request["scorer_id"], request["version"])
    assert scorer is not None, "the parent has the same modules"
    meter = Meter(with_content=request.get("content", False))
    METER.set(meter)

    def on_step(name: str, result: Any) -> None:
        if not is_beyond(result, MAX_STEPS_BYTES):
            _send(answers, {"step": name, "result": result})

    try:
        sample = from_wire(wire.Sample.FromString(base64.b64decode(request["sample"])))
        settings = request.get("judge")
        judge = _judge(**settings) if settings else None
        work = evaluate(scorer, sample, request["options"], judge=judge, done=request["steps"], on_step=on_step)
        kept = record_of(asyncio.run(work), scorer)
    except BaseException as error:  # a scorer may raise anything, SystemExit too
        return {"error": _error(error), "meter": meter.dump()}
    score = {
        "value": kept.value,
        "label": kept.label,
        "reason": kept.reason,
        "metadata": json.loads(kept.metadata),
        "judgement": json.loads(kept.judgement) if kept.judgement else None,
    }
    return {"score": score, "meter": meter.dump()}


@cache
def _judge(**settings: Any) -> Judge:
    from scorer_service.scorers.model import configured_judge

    return configured_judge(**settings)


def _error(error: BaseException) -> dict[str, Any]:
    message = words(error)
    if isinstance(error, NotScorable):
        return {"kind": "not_scorable", "message": message}
    if isinstance(error, ProviderUnavailable):
        kind = "rate_limited" if isinstance(error, RetryAfter) else "provider_unavailable"
        return {"kind": kind, "message": message, "delay_seconds": delay_of(error)}
    if isinstance(error, BadScore):
        return {"kind": "bad_score", "message": message}
    if isinstance(error, NonRetriableError):
        return {"kind": "non_retriable", "message": message, "reason": reason_of(error, "scorer_error")}
    return {"kind": "error", "message": message, "error_class": class_name(error)}


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    answers.write(len(body).to_bytes(HEADER_BYTES, "big") + body)
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
