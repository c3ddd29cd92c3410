"""Asks the person at the terminal what a run waits for."""

from __future__ import annotations

import sys

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.cli.inputs import parse_input
from runwire.cli.output import compact
from runwire.client import approve, deny, from_value, supply


def is_possible() -> bool:
    """Whether somebody is there."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(request: run_pb2.PendingRequest) -> run_event_pb2.Answer:
    """The answer to one request: what is typed for data is JSON, or else a text."""
    what = f"{request.name} {compact(from_value(request.arguments))}"
    if request.kind == run_pb2.PENDING_KIND_APPROVAL:
        said = input(f"approve {what}? [y/N, or why not] ").strip()
        if said.lower() in ("y", "yes"):
            return approve(request.request_id)
        return deny(request.request_id, "" if said.lower() in ("", "n", "no") else said)
    return supply(request.request_id, parse_input(input(f"{what}: ")))
