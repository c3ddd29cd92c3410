"""Puts jobs into a peer's queue: `python -m benchmarks.scorer_peers.enqueue dramatiq|taskiq COUNT`."""

import asyncio
import sys

SAMPLE = "A cursor is a position in the log of a run. " * 10


def main(peer, count):
    if peer == "dramatiq":
        from benchmarks.scorer_peers.dramatiq_worker import score

        for number in range(count):
            score.send(number, SAMPLE)
    else:
        asyncio.run(_taskiq(count))


async def _taskiq(count):
    from benchmarks.scorer_peers.taskiq_worker import broker, score

    await broker.startup()
    for number in range(count):
        await score.kiq(number, SAMPLE)
    await broker.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
