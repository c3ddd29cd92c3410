// Runs an agent by the unmodified AG-UI client, cut at random and by whatever happens to the gateway.
// Usage: node agui.js URL RUN INPUT CUTS; prints the messages that are shown at the end, and the number of cuts, as JSON.
import { HttpAgent, EventType } from "@ag-ui/client";

// The package leaves a promise of its own unhandled where a connection breaks.
process.on("unhandledRejection", () => undefined);
const [url, runId, input, cuts] = process.argv.slice(2);
const agent = new HttpAgent({ url, threadId: `thread of ${runId}` });
agent.messages = [{ id: "m1", role: "user", content: input }];
let taken = 0;
let last;
for (let attempt = 0; !last; attempt += 1) {
  let left = attempt < Number(cuts) ? 2 + Math.floor(Math.random() * 8) : Infinity;
  try {
    await agent.runAgent({ runId }, {
      onEvent({ event }) {
        // The client itself makes a RUN_ERROR of code `abort` where it is told to leave.
        const failed = event.type === EventType.RUN_ERROR && event.code !== "abort";
        if (event.type === EventType.RUN_FINISHED || failed) last = event;
        if (!last && --left === 0) {
          taken += 1;
          agent.abortRun();
        }
      },
    });
  } catch (error) {
    if (attempt > 2000) throw error;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
const shown = agent.messages.filter(({ role }) => role !== "user");
console.log(JSON.stringify({ shown, last, cuts: taken }));
