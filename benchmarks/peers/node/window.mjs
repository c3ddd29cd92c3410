// What every live reader does with what arrives: counts and times it inside one window, which the benchmark is told of
// ("measure", "end"), so that it can take the processor time of every process over exactly that window.

export const wall = () => performance.timeOrigin + performance.now()

export class Window {
  #latencies = []
  #from = Infinity
  #to = -Infinity
  #received = 0
  #open = false

  // An event that was made at `made` (ms since 1970) has arrived.
  take(made, now) {
    if (this.#open) this.#received++
    if (made >= this.#from && made < this.#to) this.#latencies.push(now - made)
  }

  async measure(seconds) {
    this.#from = wall()
    this.#to = this.#from + seconds * 1000
    this.#open = true
    console.log('measure')
    await pause(seconds * 1000)
    this.#open = false
    console.log('end')
  }

  result(more = {}) {
    const sorted = Float64Array.from(this.#latencies).sort()
    const at = share => sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] : null
    console.log(JSON.stringify({ received: this.#received, timed: sorted.length, p50: at(0.5), p99: at(0.99), ...more }))
  }
}

export const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))
