// Durable Streams' own server, in a process of its own: appends COUNT events in batches, reads them back and parses
// them. COUNT, or `serve PORT`
import { spawn } from 'node:child_process'
import { event } from './event.mjs'

const [first_word, second] = process.argv.slice(2)
if (first_word === 'serve') {
  const { DurableStreamTestServer } = await import('@durable-streams/server')
  await new DurableStreamTestServer({ port: +second, host: '127.0.0.1', compression: false }).start()
  console.log('up')
} else {
  const count = +first_word
  const port = 12_000 + Math.floor(Math.random() * 20_000)
  const server = spawn(process.execPath, ['durable_streams.mjs', 'serve', port], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise(resolve => server.stdout.once('data', resolve))
  const url = `http://127.0.0.1:${port}/v1/stream/run`
  const headers = { 'content-type': 'application/json' }
  await fetch(url, { method: 'PUT', headers })
  for (let i = 0; i < count;) {
    const batch = []
    for (; batch.length < 500 && i < count; i++) batch.push(event(i, 0))
    await fetch(url, { method: 'POST', headers, body: JSON.stringify(batch) })
  }
  const begin = performance.now()
  const cpu = process.cpuUsage()
  let events = 0
  let first = 0
  for (let offset = '-1'; ;) {
    const response = await fetch(`${url}?offset=${offset}`)
    const found = await response.json()
    first ||= performance.now() - begin
    events += found.length
    offset = response.headers.get('stream-next-offset')
    if (!found.length || response.headers.get('stream-up-to-date')) break
  }
  const { user, system } = process.cpuUsage(cpu)
  const seconds = (performance.now() - begin) / 1e3
  if (events !== count) throw new Error(`${events} of ${count} events`)
  console.log(JSON.stringify({ 'events/s': events / seconds, 'first ms': first, 'us reader': (user + system) / events }))
  server.kill()
  process.exit(0)
}
