"""Redis in every shape that the engine must work on: fixtures, each giving the URL of an empty place.

Servers last for the session; a test that kills or changes one starts its own with `tests.servers.start_redis`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest

from tests.servers import MISSING, RedisBinary, RedisServer, free_port, missing, redis_servers, start_redis

START_SECONDS = 20.0
SLOTS = 16384


def binary(name: str) -> RedisBinary:
    """The kind of server whose name begins so; the test is skipped without it."""
    found = next((kind for kind in redis_servers() if kind.name.startswith(name) and kind.path), None)
    return found or missing(name, "not installed")


def any_binary() -> RedisBinary:
    """The first kind that is there."""
    return binary("")


def binary_of_this_machine() -> RedisBinary:
    found = next((kind for kind in redis_servers() if kind.name.endswith("of-this-machine")), None)
    if found is None:  # also under CI, where the lock brings a Valkey and a Redis
        pytest.skip(f"{MISSING} redis-server: this machine has none of its own")
    return found


def wait_until(is_so: Callable[[], object], limit_seconds: float = START_SECONDS) -> None:
    """For servers, which tell nobody when they have agreed on something."""
    deadline = time.monotonic() + limit_seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {limit_seconds} seconds"
        time.sleep(0.02)


class RedisCluster:
    """Three nodes, each with a third of the slots."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        bounds = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
        for node, (first, end) in zip(nodes, pairwise(bounds), strict=True):
            node.execute("CLUSTER", "ADDSLOTS", *range(first, end))
        for node in nodes[1:]:
            nodes[0].execute("CLUSTER", "MEET", "127.0.0.1", node.port)
        for node in nodes:
            wait_until(lambda node=node: self.agrees(node))

    def agrees(self, node: RedisServer) -> bool:
        said = node.execute("CLUSTER", "INFO")
        text = said.decode() if isinstance(said, bytes) else "\n".join(f"{k}:{v}" for k, v in said.items())
        return "cluster_state:ok" in text and f"cluster_known_nodes:{len(self.nodes)}" in text

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def flush(self) -> None:
        for node in self.nodes:
            node.execute("FLUSHALL")


def start_cluster(stack: ExitStack, kind: RedisBinary, *args: str) -> RedisCluster:
    """A cluster that ends with `stack`."""
    options = ("--cluster-node-timeout", "15000", "--cluster-require-full-coverage", "no", *args)
    return RedisCluster([start_node(stack, kind, *options) for _ in range(3)])


def start_node(stack: ExitStack, kind: RedisBinary, *args: str) -> RedisServer:
    """A node by itself, that ends with `stack`."""
    node = stack.enter_context(RedisServer(kind, "--cluster-enabled", "yes", *args))
    # Its other port lies 10,000 higher, and is to stay below those that the kernel gives to connections, too.
    while node.port >= 22_000:
        node.port = free_port()
    node.start()
    return node


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    with start_redis(binary("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_6_2_server() -> Iterator[RedisServer]:
    with start_redis(binary("redis-6.2")) as server:
        yield server


@pytest.fixture(scope="session")
def own_redis_server() -> Iterator[RedisServer]:
    with start_redis(binary_of_this_machine()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    with ExitStack() as stack:
        yield start_cluster(stack, any_binary())


@pytest.fixture
def valkey_url(valkey_server: RedisServer) -> str:
    valkey_server.execute("FLUSHALL")
    return valkey_server.url


@pytest.fixture
def redis_6_2_url(redis_6_2_server: RedisServer) -> str:
    redis_6_2_server.execute("FLUSHALL")
    return redis_6_2_server.url


@pytest.fixture
def own_redis_url(own_redis_server: RedisServer) -> str:
    own_redis_server.execute("FLUSHALL")
    return own_redis_server.unix_url


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    redis_cluster.flush()
    return f"{redis_cluster.url}?shards=4"
