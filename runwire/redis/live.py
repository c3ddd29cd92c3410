"""Live entries."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from runwire.pubsub import Deliver, Entry
from runwire.redis.channels import Subscriptions
from runwire.redis.client import Client
from runwire.redis.records import pack_live, unpack_live
from runwire.redis.shards import Shards


class RedisPubSub:
    """Live entries, over the one pub/sub connection of the process."""

    def __init__(self, client: Client, channels: Subscriptions, shards: Shards) -> None:
        self._client = client
        self._channels = channels
        self._shards = shards

    async def publish(self, topic: str, entry: Entry) -> None:
        await self._client.call(self._shards.of(topic), "PUBLISH", self._shards.live(topic), pack_live(entry))

    def subscribe(self, topic: str, deliver: Deliver) -> AbstractAsyncContextManager[None]:
        def take(payload: bytes | None) -> None:
            # An empty payload says that the log was cleared or trimmed.
            deliver(unpack_live(payload) if payload else None)

        return self._channels.listen(self._shards.live(topic), take)
