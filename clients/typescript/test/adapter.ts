// The adapter of this client for the conformance kit; docs/conformance.md has its lines. Its targets are gateways.
import { createInterface } from "node:readline";
import { RunwireClient } from "../src/client.js";
import { RunwireError } from "../src/errors.js";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (message: object) => { process.stdout.write(`${JSON.stringify(message)}\n`); };

for (let next = await lines.next(); !next.done; next = await lines.next()) {
  const request = JSON.parse(next.value);
  const client = new RunwireClient({ url: request.target });
  const stream = client.watch(request.run_id, { after: request.cursor });
  let saved: string = request.cursor;
  const save = () => { if (stream.cursor !== saved) say({ cursor: (saved = stream.cursor) }); };
  try {
    for await (const event of stream) {
      save();
      const { sequence, attempt, step, createTime, turn, ...payload } = event;
      const kind = (Object.keys(payload)[0] ?? "").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      say({ event: { sequence: Number(sequence), attempt: attempt ?? 0, step: step ?? 0, kind, text: event.textDelta?.text ?? "" } });
      await lines.next(); // handled
    }
    save();
    say({ ended: stream.state });
  } catch (error) {
    say({ error: error instanceof RunwireError ? error.reason : String(error) });
  }
}
