// Talks with an agent: each line of the input is a message, accepted once whatever is cut, and all answers come in one log.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import { AgentService, watch } from "./watch.js";

type Client = InstanceType<typeof AgentService>;
type Answered<T> = (error: grpc.ServiceError | null, response?: T) => void;

// Makes a call until it is answered. It carries a request id, so that a repetition has no further effect.
async function surely<T>(call: (answered: Answered<T>) => void): Promise<T> {
  for (let bound = 50; ; bound = Math.min(bound * 1.6, 5_000)) {
    try {
      return await new Promise<T>((resolve, reject) => call((error, response) => error ? reject(error) : resolve(response!)));
    } catch (error) {
      const { code } = error as grpc.ServiceError;
      if (code !== grpc.status.UNAVAILABLE && code !== grpc.status.DEADLINE_EXCEEDED) throw error;
      await sleep(Math.random() * bound);
    }
  }
}

const deadline = () => ({ deadline: Date.now() + 5_000 });

// The id of a new conversation with this agent, which begins with this message.
async function begin(client: Client, agentId: string, message: string): Promise<string> {
  const request = { agent_id: agentId, input: { stringValue: message }, conversation: {}, request_id: randomUUID() };
  return (await surely<{ run?: { run_id: string } | null }>((answered) => client.StartRun(request, deadline(), answered))).run!.run_id;
}

async function send(client: Client, runId: string, message: string): Promise<void> {
  const request = { run_id: runId, message: { stringValue: message }, request_id: randomUUID() };
  await surely((answered) => client.SendMessage(request, deadline(), answered));
}

const [target, agentId] = process.argv.slice(2);
if (!target || !agentId) { console.error("usage: node chat.js HOST:PORT AGENT"); process.exit(2); }
const client = new AgentService(target, grpc.credentials.createInsecure());
let runId = "";
let ended: Promise<string> = Promise.resolve("RUN_STATE_SUCCEEDED");
for await (const line of createInterface({ input: process.stdin })) {
  if (runId) { await send(client, runId, line); continue; }
  runId = await begin(client, agentId, line);
  ended = watch(target, runId, {}, async (event) => { process.stdout.write(event.text_delta?.text ?? ""); }, () => {});
}
if (runId) await surely((answered) => client.EndConversation({ run_id: runId }, deadline(), answered));
const state = await ended;
console.error(`${state}, run ${runId}`);
client.close();
process.exitCode = state === "RUN_STATE_SUCCEEDED" ? 0 : 1;
