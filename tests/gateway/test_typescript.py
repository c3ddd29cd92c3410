"""What the TypeScript client has from us is current. It is built and run by `make test-polyglot`."""

from __future__ import annotations

import json
import runpy

from google.protobuf import json_format

from runwire.agent.v1 import run_event_pb2
from runwire.fold import fold
from tests.client.processes import ROOT
from tests.gateway import fold_vectors


def test_types_are_current() -> None:
    """Its types are what the protos say: `make proto` writes them."""
    made = runpy.run_path(str(ROOT / "clients" / "typescript" / "generate.py"))["types"]()
    assert (ROOT / "clients" / "typescript" / "src" / "types.ts").read_text() == made


def test_vectors_are_what_fold_makes() -> None:
    """The vectors that both folds are held to: this one makes the views of them."""
    kept = json.loads(fold_vectors.FILE.read_text())
    assert len(kept) > fold_vectors.RANDOM_LOGS
    for vector in kept:
        events = [json_format.ParseDict(each, run_event_pb2.RunEvent()) for each in vector["events"]]
        assert fold_vectors.as_json(fold(events)) == vector["view"], vector["name"]


def test_vectors_are_current() -> None:
    """The file is what its generator writes, so that a payload that is added there is in it."""
    assert fold_vectors.FILE.read_text() == fold_vectors.text(), "run python -m tests.gateway.fold_vectors"
