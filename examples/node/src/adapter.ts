// The adapter of this client for the conformance kit; docs/conformance.md has its lines.
import { createInterface } from "node:readline";
import { Refused, watch } from "./watch.js";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (message: object) => { process.stdout.write(`${JSON.stringify(message)}\n`); };

for (let next = await lines.next(); !next.done; next = await lines.next()) {
  const request = JSON.parse(next.value);
  try {
    const state = await watch(request.target, request.run_id,
      { cursor: request.cursor, heartbeatSeconds: request.heartbeat_seconds, maxBatchSize: request.max_batch_size },
      async (event) => {
        const { attempt, step, payload, text_delta } = event;
        say({ event: { sequence: Number(event.sequence), attempt, step, kind: payload, text: text_delta?.text ?? "" } });
        await lines.next(); // handled
      }, (cursor) => say({ cursor }));
    say({ ended: state });
  } catch (error) {
    say({ error: error instanceof Refused ? error.reason : String(error) });
  }
}
