"""The engines under test. A new one is one line here and one fixture.

The fixture gives the URL of a place that holds no data: a fresh file, a flushed server. Where the machine cannot run
the engine it calls `pytest.skip` with the reason. `open_store(url)` opens one connection to that place, and opening it
again gives an independent connection to the same data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """One engine, as the suite sees it."""

    url_fixture: str
    """The fixture that gives the URL of an empty place, for one test."""
    processes: bool = True
    """Several processes can share the data; otherwise only the connections of one process."""


BACKENDS = {
    "memory": Backend("memory_url", processes=False),
    "sqlite": Backend("sqlite_url"),
    "valkey": Backend("valkey_url"),
    "redis-6.2": Backend("redis_6_2_url"),
    "redis-of-this-machine": Backend("own_redis_url"),
    "redis-cluster": Backend("redis_cluster_url"),
}
