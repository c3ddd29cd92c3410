import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { approve, deny, supply } from "../src/client.js";
import { json, problem, scripted, type Handler } from "./server.js";

const bodies: any[] = [];
const taking = (then: Handler): Handler => (answer, request: IncomingMessage) => {
  void text(request).then((body) => { bodies.push(body && JSON.parse(body)); then(answer, request); });
};

test("a start whose answer is lost is made again with the same id, and an answer is not", async () => {
  bodies.length = 0;
  await scripted([taking((answer) => answer.destroy()), taking(problem(503, "UNAVAILABLE")), taking(json({ runId: "r" }, 201))], async ({ client, asked }) => {
    const run = await client.startRun("an agent/ä", null, { labels: { team: "a" }, conversation: true });
    assert.equal(run.runId, "r");
    assert.deepEqual(asked, Array(3).fill("POST /v1/agents/an%20agent%2F%C3%A4/runs"));
    assert.match(bodies[0].requestId, /^[0-9a-f]{32}$/);
    assert.deepEqual(bodies[1], bodies[0]);
    assert.deepEqual({ ...bodies[0], requestId: "" }, { input: null, requestId: "", labels: { team: "a" }, conversation: {} });
  });
  await scripted([(answer) => answer.destroy(), json({})], async ({ client, asked }) => {
    await assert.rejects(client.answer("r", approve("q")), { reason: "UNREACHABLE" });
    assert.equal(asked.length, 1);
  });
});

test("every call says what it does", async () => {
  bodies.length = 0;
  const calls = Array.from({ length: 8 }, () => taking(json({})));
  await scripted(calls, async ({ client, asked }) => {
    await client.answer("r", [approve("a", { x: 1 }), deny("b", "no"), supply("c", [null])]);
    await client.sendMessage("r", "hi", { mode: "MESSAGE_MODE_STEER", requestId: "once" });
    await client.sendMessage("r", "hi");
    await client.endConversation("r");
    await client.cancelRun("r", { reason: "enough" });
    await client.forkRun("r", { requestId: "f" });
    await client.getRun("r");
    assert.deepEqual(asked.map((each) => each.replace("/v1/runs/r", "")), ["POST /answers", "POST /messages", "POST /messages", "POST /end", "POST /cancel", "POST /forks", "GET "]);
    assert.deepEqual(bodies[0], { answers: [{ requestId: "a", approve: { overrideArguments: { x: 1 } } }, { requestId: "b", deny: { message: "no" } }, { requestId: "c", data: [null] }] });
    assert.deepEqual(bodies[1], { message: "hi", mode: "MESSAGE_MODE_STEER", requestId: "once" });
    assert.equal(bodies[2].mode, "MESSAGE_MODE_QUEUE");
    assert.deepEqual(bodies.slice(3, 6), [{}, { reason: "enough" }, { requestId: "f" }]);
  });
});

test("a call ends at its time limit, and at once when it is aborted", async () => {
  await scripted([() => undefined, () => undefined], async ({ client }) => {
    await assert.rejects(client.getRun("r"), { reason: "UNREACHABLE" });
    const reason = new Error("left");
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 20);
    await assert.rejects(client.getRun("r", { signal: controller.signal }), reason);
  }, { timeoutSeconds: 0.2 });
});

test("an answer that is cut off is none", async () => {
  const cut: Handler = (answer) => { answer.writeHead(200, { "content-length": "100" }); answer.write('{"runId"', () => answer.destroy()); };
  await scripted([cut, json({ runId: "r" })], async ({ client }) => {
    assert.equal((await client.getRun("r")).runId, "r");
  });
});
