// Follows a run through cuts at random places: `node cuts.js URL AGENT INPUT CUTS`; prints what was read as JSON.
import { Fold, RunwireClient, textOf } from "../src/index.js";

const [url = "", agent = "", input = "", cuts = ""] = process.argv.slice(2);
const client = new RunwireClient({ url, resume: { firstDelaySeconds: 0.05, maxDelaySeconds: 0.5 } });
const { runId } = await client.startRun(agent, JSON.parse(input));
const [numbers, fold] = [[] as number[], new Fold()];
let [taken, cursor, state] = [0, "", undefined as string | undefined];
while (!state) {
  const stream = client.watch(runId!, { after: cursor });
  let left = taken < Number(cuts) ? 1 + Math.floor(Math.random() * 8) : Infinity;
  for await (const event of stream) {
    numbers.push(Number(event.sequence));
    fold.add(event);
    cursor = stream.nextCursor;
    left -= 1;
    if (left === 0) {
      taken += 1;
      break;
    }
  }
  state = stream.state;
}
console.log(JSON.stringify({ numbers, text: textOf(fold.view), last: { type: state }, cuts: taken }));
