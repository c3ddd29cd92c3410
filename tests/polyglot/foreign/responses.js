// Reads a response by the unmodified `openai` package, cut at random.
// Usage: node responses.js URL AGENT INPUT CUTS; prints what was read as JSON.
import OpenAI from "openai";

const [baseURL, model, input, cuts] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 20 });
const key = { headers: { "Idempotency-Key": crypto.randomUUID() } };
const { id } = await client.responses.create({ model, input, background: true }, key);
const ends = ["response.completed", "response.failed", "response.incomplete", "response.cancelled"];
const numbers = [];
let text = "";
let last;
let taken = 0;
for (let attempt = 0; !last; attempt += 1) {
  let left = attempt < Number(cuts) ? 1 + Math.floor(Math.random() * 8) : Infinity;
  const after = numbers.length ? { starting_after: numbers.at(-1) } : {};
  try {
    const stream = await client.responses.retrieve(id, { stream: true, ...after });
    for await (const event of stream) {
      numbers.push(event.sequence_number);
      if (event.type === "response.output_text.delta") text += event.delta;
      if (ends.includes(event.type)) last = event;
      if (!last && --left === 0) {
        taken += 1;
        break;
      }
    }
  } catch (error) {
    // The gateway was killed; what it refuses has a status of its own.
    if (attempt > 2000 || (error.status >= 400 && error.status < 500)) throw error;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
console.log(JSON.stringify({ numbers, text, last, cuts: taken }));
