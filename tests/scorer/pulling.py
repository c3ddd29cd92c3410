"""A worker process of external scorers that lives dangerously: `python -m tests.scorer.pulling ADDRESS SEED`.

Of its reports a fifth is lost, a fifth comes twice, and a fifth comes late."""

from __future__ import annotations

import asyncio
import random
import sys

from runwire.client import ScorerClient
from runwire.client.worker import ScorerWork, ScorerWorker
from runwire.errors import ClaimLost, Unavailable
from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.scorer.v1 import scorer_run_pb2

LEASE_SECONDS = 1.0


class FaultyClient(ScorerClient):
    """Loses, doubles and delays the reports of ends."""

    async def report_scorer_run(self, request: pb.ReportScorerRunRequest) -> pb.ReportScorerRunResponse:
        if request.WhichOneof("report") == "extension":
            raise Unavailable("nobody extends a lease here")  # so that what is late is late
        fate = random.random()
        if fate < 0.2:
            return pb.ReportScorerRunResponse(state=scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED)
        if fate < 0.4:
            await super().report_scorer_run(request)
        elif fate < 0.6:
            await asyncio.sleep(random.uniform(0.5, 2.0) * LEASE_SECONDS)
        try:
            return await super().report_scorer_run(request)
        except ClaimLost:
            print("late", flush=True)
            raise


async def main(address: str, seed: int) -> None:
    random.seed(seed)
    async with FaultyClient(address) as client:
        worker = ScorerWorker(client, concurrency=64, lease_seconds=LEASE_SECONDS)

        @worker.scorer("chaotic", version="1", retries=100)
        async def chaotic(work: ScorerWork) -> float:
            await asyncio.sleep(random.uniform(0.0, 0.02))
            return float(len(str(work.output)))

        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
