"""taskiq-redis doing what the scorer service does: a no-op, and a row. `taskiq worker benchmarks.scorer_peers.taskiq_worker:broker`."""  # noqa: E501

import os
import time

from taskiq import TaskiqEvents
from taskiq_redis import RedisStreamBroker

URL = os.environ["BENCH_RESULTS"]
broker = RedisStreamBroker(url=os.environ["BENCH_REDIS"])


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_database(state):
    if URL.startswith("sqlite"):
        import aiosqlite

        state.database = await aiosqlite.connect(URL.removeprefix("sqlite:///"), timeout=60, isolation_level=None)
        await state.database.execute("PRAGMA journal_mode = WAL")
        await state.database.execute("PRAGMA synchronous = FULL")
    else:
        import asyncpg

        state.database = await asyncpg.create_pool(URL, min_size=8, max_size=8)


@broker.task
async def score(job_id, sample):
    # In autocommit mode a statement is a transaction.
    row = (job_id, float(len(sample)), time.time())
    if URL.startswith("sqlite"):
        await broker.state.database.execute("INSERT INTO results VALUES (?, ?, ?)", row)
    else:
        await broker.state.database.execute("INSERT INTO results VALUES ($1, $2, $3)", *row)
