// Reads a response by the unmodified `openai` package, cut at random.
// Usage: node responses.js URL AGENT INPUT CUTS; prints what was read as JSON.
import OpenAI from "openai";

const [baseURL, model, input, cuts] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused" });
const { id } = await client.responses.create({ model, input, background: true });
const ends = ["response.completed", "response.failed", "response.incomplete", "response.cancelled"];
const numbers = [];
let text = "";
let last;
let taken = 0;
for (let attempt = 0; !last; attempt += 1) {
  let left = attempt < Number(cuts) ? 1 + Math.floor(Math.random() * 8) : Infinity;
  const after = numbers.length ? { starting_after: numbers.at(-1) } : {};
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
}
console.log(JSON.stringify({ numbers, text, last, cuts: taken }));
