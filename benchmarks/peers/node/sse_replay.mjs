// Reads so many Server-Sent Events and parses them. URL COUNT
const [url, count] = process.argv.slice(2)
const begin = performance.now()
const cpu = process.cpuUsage()
const response = await fetch(url)
const decoder = new TextDecoder()
let text = ''
let events = 0
let characters = 0
let first = 0
for await (const chunk of response.body) {
  text += decoder.decode(chunk, { stream: true })
  first ||= performance.now() - begin
  let at = 0
  for (let end; (end = text.indexOf('\n\n', at)) >= 0; at = end + 2) {
    characters += JSON.parse(text.slice(at + 'data: '.length, end)).data.text.length
    events++
  }
  text = text.slice(at)
  if (events >= +count) break
}
const { user, system } = process.cpuUsage(cpu)
const rate = events / (performance.now() - begin) * 1e3
console.log(JSON.stringify({ events, rate, first_ms: first, us: (user + system) / events }))
process.exit(0)
