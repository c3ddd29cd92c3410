// Live readers of Server-Sent Events, one connection each. URL RUNS READERS SECONDS
import http from 'node:http'
import { Window, pause, wall } from './window.mjs'

const [url, ...numbers] = process.argv.slice(2)
const [runs, readers, seconds] = numbers.map(Number)
const agent = new http.Agent({ maxSockets: Infinity })
const window = new Window()
let opened = 0
let whole = true

function follow(reader) {
  http.get(`${url}/run${reader % runs}`, { agent }, response => {
    let last = -1
    let text = ''
    opened++
    response.setEncoding('utf8')
    response.on('data', data => {
      const now = wall()
      text += data
      let begin = 0
      for (let end; (end = text.indexOf('\n\n', begin)) >= 0; begin = end + 2) {
        const event = JSON.parse(text.slice(begin + 'data: '.length, end))
        if (event.data.number !== last + 1) whole = false
        last = event.data.number
        window.take(event.data.time, now)
      }
      text = text.slice(begin)
    })
  })
}

for (let i = 0; i < readers; i++) follow(i)
while (opened < readers) await pause(20)
console.log('open')
await pause(2000)
await window.measure(seconds)
await pause(500)
window.result({ whole })
process.exit(0)
