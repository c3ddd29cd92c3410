// Mastra's CachingPubSub on Redis, served as Server-Sent Events; publishes evenly once it is told "go" on stdin.
// REDIS_PORT RUNS RATE
import http from 'node:http'
import { mastra, event } from './mastra.mjs'
import { wall } from './window.mjs'

const [port, runs, rate] = process.argv.slice(2).map(Number)
const { pubsub } = await mastra(port)
const server = http.createServer(async (request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.flushHeaders()
  await pubsub.subscribeFromOffset(request.url.slice(1), 0, sent => response.write(`data: ${JSON.stringify(sent)}\n\n`))
})
server.listen(0, '127.0.0.1', 4096, () => console.log(`http://127.0.0.1:${server.address().port}`))

process.stdin.once('data', () => {
  const begin = performance.now()
  let sent = 0
  setInterval(() => {
    const due = Math.floor((performance.now() - begin) / 1000 * rate * runs)
    for (; sent < due; sent++) pubsub.publish(`run${sent % runs}`, event(Math.floor(sent / runs), wall()))
  }, 1)
})
