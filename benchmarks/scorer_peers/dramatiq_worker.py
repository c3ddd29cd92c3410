"""dramatiq doing what the scorer service does: a no-op, and a row. Run by `dramatiq` with this module."""

import os
import sqlite3
import threading
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

URL = os.environ["BENCH_RESULTS"]
dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))
_local = threading.local()


def _connection():
    """One connection a thread."""
    if not hasattr(_local, "connection"):
        if URL.startswith("sqlite"):
            connection = sqlite3.connect(URL.removeprefix("sqlite:///"), timeout=60)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        else:
            import psycopg

            connection = psycopg.connect(URL)
        _local.connection = connection
    return _local.connection


@dramatiq.actor(max_retries=3)
def score(job_id, sample):
    connection = _connection()
    mark = "?, ?, ?" if URL.startswith("sqlite") else "%s, %s, %s"
    connection.execute(f"INSERT INTO results VALUES ({mark})", (job_id, float(len(sample)), time.time()))
    connection.commit()
