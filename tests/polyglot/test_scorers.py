"""A scorer in another language, from stubs made by its own tools, against the real service."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runwire.client.sync import ScorerClient
from runwire.scorer.v1 import scorer_run_pb2
from tests.client.processes import ScorerProcess

pytestmark = [pytest.mark.polyglot, pytest.mark.timeout(300)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for what another process does."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_scorer_in_node(node: Path, tmp_path: Path) -> None:
    """The worker of examples/node registers its scorer, scores what is asked of it, and says what cannot be scored."""
    with ScorerProcess(f"sqlite:///{tmp_path}/runs.db") as service:
        service.start()
        with (
            ScorerClient(service.address) as client,
            subprocess.Popen(["node", str(node / "score.js"), service.address]) as worker,
        ):
            try:
                wait_until(lambda: "node-brevity" in {each.scorer_id for each in client.list_scorers()})
                ended = []
                for output in ("two words", 7):
                    asked = client.request_scorer_run("node-brevity", output=output)
                    wait_until(lambda asked=asked: client.get_scorer_run(asked.scorer_run_id).HasField("end_time"))  # type: ignore[misc]
                    ended.append(client.get_scorer_run(asked.scorer_run_id))
            finally:
                worker.kill()
    scored, refused = ended
    assert (scored.state, scored.score.value) == (scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED, 0.5)
    assert scored.score.reason == "9 characters"
    assert refused.state == scorer_run_pb2.SCORER_RUN_STATE_NOT_SCORABLE
