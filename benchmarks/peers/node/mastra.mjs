// Mastra as its documentation puts it together: CachingPubSub over an in-process PubSub and a cache in Redis.
import { CachingPubSub, EventEmitterPubSub } from '@mastra/core/events'
import { RedisServerCache } from '@mastra/redis'
import Redis from 'ioredis'

export { event } from './event.mjs'

export async function mastra(port) {
  const redis = new Redis(port, '127.0.0.1')
  await redis.ping()
  return { redis, pubsub: new CachingPubSub(new EventEmitterPubSub(), new RedisServerCache({ client: redis }, {})) }
}
