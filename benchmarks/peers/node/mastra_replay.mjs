// Publishes COUNT events to Mastra on Redis, says how fast, and serves them as Server-Sent Events. REDIS_PORT COUNT
import http from 'node:http'
import { mastra, event } from './mastra.mjs'

const [port, count] = process.argv.slice(2).map(Number)
const { pubsub } = await mastra(port)
const topic = `run${Date.now()}`
const slow = Math.min(count, 10_000)
const rate = (events, begin) => events / (performance.now() - begin) * 1e3

let begin = performance.now()
for (let i = 0; i < slow; i++) await pubsub.publish(topic, event(i, 0))
const one_by_one = rate(slow, begin)
begin = performance.now()
for (let i = slow; i < count;) {
  const going = []
  for (; going.length < 256 && i < count; i++) going.push(pubsub.publish(topic, event(i, 0)))
  await Promise.all(going)
}
const in_flight = rate(count - slow, begin)

const server = http.createServer(async (request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  await pubsub.subscribeWithReplay(topic, async sent => {
    if (!response.write(`data: ${JSON.stringify(sent)}\n\n`)) await new Promise(resolve => response.once('drain', resolve))
  })
})
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ one_by_one, in_flight, url: `http://127.0.0.1:${server.address().port}/` }))
})
