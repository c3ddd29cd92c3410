// Reads a run of Runwire from its beginning. ADDRESS PROTOS RUN
import { client } from './runwire.mjs'

const [address, protos, run] = process.argv.slice(2)
const service = client(address, protos)
await new Promise(resolve => service.ListAgents({}, resolve)) // connected
const begin = performance.now()
const cpu = process.cpuUsage()
let events = 0
let characters = 0
let first = 0
const stream = service.WatchRun({ run_id: run })
stream.on('data', frame => {
  if (!frame.batch) return
  first ||= performance.now() - begin
  for (const event of frame.batch.events) {
    events++
    if (event.text_delta) characters += event.text_delta.text.length
  }
})
stream.on('end', () => {
  const { user, system } = process.cpuUsage(cpu)
  const rate = events / (performance.now() - begin) * 1e3
  console.log(JSON.stringify({ events, rate, first_ms: first, us: (user + system) / events }))
  process.exit(0)
})
