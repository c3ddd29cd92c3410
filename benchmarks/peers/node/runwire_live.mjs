// Live readers of Runwire. ADDRESS PROTOS RUNS READERS RATE SECONDS
import { client, milliseconds, startRun } from './runwire.mjs'
import { Window, pause } from './window.mjs'

const [address, protos, ...numbers] = process.argv.slice(2)
const [runs, readers, rate, seconds] = numbers.map(Number)
const clients = Array.from({ length: Math.ceil(readers / 100) }, () => client(address, protos))
const window = new Window()
const lead = 2 + Math.max(runs, readers) / 150
const count = Math.ceil(rate * (lead + seconds + 2))
const ids = []
for (let i = 0; i < runs; i++) ids.push(await startRun(clients[0], { count, per_second: rate, lead_seconds: lead }))

let opened = 0
let whole = 0
const ends = Array.from({ length: readers }, (_, i) => new Promise(resolve => {
  let last = 0
  const stream = clients[i % clients.length].WatchRun({ run_id: ids[i % runs] })
  stream.on('data', frame => {
    if (frame.opened) opened++
    if (frame.ended && frame.ended.last_sequence === last) whole++
    if (!frame.batch) return
    const now = performance.timeOrigin + performance.now()
    for (const event of frame.batch.events) {
      if (event.sequence !== last + 1) throw new Error(`event ${event.sequence} came after ${last}`)
      last = event.sequence
      if (event.text_delta) window.take(milliseconds(event.create_time), now)
    }
  })
  stream.on('end', resolve)
  stream.on('error', error => { console.error(error.message); resolve() })
}))
while (opened < readers) await pause(20)
await pause(lead * 1000)
await window.measure(seconds)
await Promise.all(ends)
window.result({ whole: whole === readers })
process.exit(0)
