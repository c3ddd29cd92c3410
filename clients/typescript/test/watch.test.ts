import assert from "node:assert/strict";
import { test } from "node:test";
import { RunwireError } from "../src/errors.js";
import type { RunStream } from "../src/watch.js";
import { END, event, json, message, problem, scripted, stream } from "./server.js";

async function read(run: RunStream): Promise<string[]> {
  const taken: string[] = [];
  for await (const each of run) taken.push(each.sequence!);
  return taken;
}

test("a cut is no end, whichever way it comes, and the reader continues behind the last event", async () => {
  await scripted([
    stream(`${message(".1", event(1))}${message("c.2", event(2))}`, "destroyed"),
    stream(`${message("c.3", event(3))}id: c.4\ndata: {"sequence": "4"`, "ended"),
    problem(503, "UNAVAILABLE", { retryAfterSeconds: 0.01 }),
    problem(429, "TOO_MANY_STREAMS", {}, { "retry-after": "0" }),
    (answer) => answer.destroy(),
    stream(message("", JSON.stringify({ status: 503, reason: "UNAVAILABLE", detail: "away" }), "problem")),
    stream(message("d", event(4)) + message("d.end", END, "end")),
  ], async ({ client, asked }) => {
    const statuses: string[] = [];
    const run = client.watch("r", { onStatus: (status) => statuses.push(status) });
    assert.deepEqual(await read(run), ["1", "2", "3", "4"]);
    assert.equal(run.state, "RUN_STATE_SUCCEEDED");
    assert.equal(run.cursor, "d.end");
    assert.deepEqual([statuses[0], statuses[1], statuses.at(-1)], ["live", "cut", "ended"]);
    const after = asked.map((each) => each.split(" after ")[1]);
    assert.deepEqual(after, [undefined, "c.2", "c.3", "c.3", "c.3", "c.3", "c.3"]);
  });
});

test("the cursor covers what was handled, and not what is in hand", async () => {
  await scripted([stream(message(".1", event(1)) + message("c", event(2)) + message("c.end", END, "end"))], async ({ client }) => {
    const run = client.watch("r");
    const seen: string[] = [];
    for await (const _ of run) seen.push(`${run.cursor} ${run.nextCursor}`);
    assert.deepEqual(seen, [" .1", ".1 c"]);
  });
});

test("an event that comes again is left out, and one that is missing is told", async () => {
  await scripted([
    stream(message("a.1", event(1)) + message("a.2", event(2)), "destroyed"),
    stream(message("a.2", event(2)) + message("a.4", event(4))),
  ], async ({ client }) => {
    await assert.rejects(read(client.watch("r")), { reason: "EVENTS_LOST" });
  });
});

test("a reader that has had the end is told so again, with the run's state", async () => {
  await scripted([(answer) => answer.writeHead(204).end(), json({ runId: "r", state: "RUN_STATE_FAILED" })], async ({ client, asked }) => {
    const run = client.watch("r", { after: "c.end" });
    assert.deepEqual(await read(run), []);
    assert.equal(run.state, "RUN_STATE_FAILED");
    assert.deepEqual(asked, ["GET /v1/runs/r/events after c.end", "GET /v1/runs/r"]);
  });
});

test("a stream that is silent is left after its heartbeats, and one that only beats is not", async () => {
  const beating = (answer: import("node:http").ServerResponse) => {
    answer.writeHead(200, { "content-type": "text/event-stream", "runwire-heartbeat-seconds": 0.2 });
    let beats = 0;
    const timer = setInterval(() => {
      beats += 1;
      answer.write(beats < 12 ? ": nothing new\n\n" : message("b.2", event(2)) + message("b.end", END, "end"));
      if (beats === 12) clearInterval(timer);
    }, 100);
  };
  await scripted([stream(message("a.1", event(1)), "frozen", 0.1), beating], async ({ client, asked }) => {
    assert.deepEqual(await read(client.watch("r")), ["1", "2"]);
    assert.equal(asked.length, 2);
  });
});

test("a gateway that takes a connection and answers nothing is left, and the stream continues elsewhere", async () => {
  const silent = () => undefined;
  const whole = stream(message("a.1", event(1)) + message("a.end", END, "end"));
  await scripted([silent, whole], async ({ client, asked }) => {
    assert.deepEqual(await read(client.watch("r")), ["1"]);
    assert.equal(asked.length, 2);
  }, { resume: { missedHeartbeats: 0.02 } });
});

test("an abort while an event is in hand ends the stream, also where fetch has forgotten its signal", async () => {
  const frozen = stream(message("a.1", event(1)), "frozen");
  const forgetful: typeof fetch = (input, init) => {
    const { signal: _, ...rest } = init!;
    return fetch(input, rest);
  };
  await scripted([frozen], async ({ client }) => {
    const stop = new AbortController();
    const reading = (async () => {
      for await (const _ of client.watch("r", { signal: stop.signal })) stop.abort();
    })();
    const late = new Promise((resolve) => setTimeout(resolve, 2000, "late").unref());
    await assert.rejects(Promise.race([reading, late]), { name: "AbortError" });
  }, { fetch: forgetful });
});

for (const [status, reason] of [[404, "RUN_NOT_FOUND"], [400, "CURSOR_MALFORMED"], [410, "CURSOR_EPOCH_MISMATCH"], [401, "UNAUTHENTICATED"], [501, "X"]] as const) {
  test(`${reason} is told and not tried again`, async () => {
    await scripted([problem(status, reason, { violations: [{ field: "cursor", description: "is none" }] })], async ({ client, asked }) => {
      await assert.rejects(read(client.watch("r", { after: "x" })), (error: RunwireError) => error.reason === reason && error.status === status && error.violations.length === 1);
      assert.equal(asked.length, 1);
    });
    await scripted([stream(message("", JSON.stringify({ status, reason, detail: "no" }), "problem"))], async ({ client }) => {
      await assert.rejects(read(client.watch("r")), { reason });
    });
  });
}

test("what is no JSON is told and not asked for again", async () => {
  await scripted([stream(message("a", "{"))], async ({ client, asked }) => {
    await assert.rejects(read(client.watch("r")), { reason: "FRAME_UNREADABLE" });
    assert.equal(asked.length, 1);
  });
});

test("a gateway that stays away is given up", async () => {
  const gone = Array.from({ length: 50 }, () => problem(502, "HTTP_502"));
  await scripted(gone, async ({ client }) => {
    await assert.rejects(read(client.watch("r")), { status: 502 });
  }, { resume: { giveUpSeconds: 0.01 } });
});

test("abort ends the stream wherever it waits, with its reason", async () => {
  const reason = new Error("left");
  for (const handler of [stream(message("a", event(1)), "frozen"), () => undefined, stream("", "ended"), problem(503, "UNAVAILABLE", { retryAfterSeconds: 60 })]) {
    await scripted([handler, () => undefined], async ({ client }) => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(reason), 100);
      await assert.rejects(read(client.watch("r", { signal: controller.signal })), reason);
    });
  }
  await scripted([], async ({ client, asked }) => {
    await assert.rejects(read(client.watch("r", { signal: AbortSignal.abort(reason) })), reason);
    assert.equal(asked.length, 0);
  });
});

test("a loop that is left keeps no connection", async () => {
  let closed: (() => void) | undefined;
  const left = new Promise<void>((resolve) => { closed = resolve; });
  await scripted([(answer, request) => { request.on("close", closed!); stream(message("a", event(1)), "frozen")(answer, request); }], async ({ client }) => {
    for await (const _ of client.watch("r")) break;
    await left;
  });
});

test("a token is asked for at every connection, and stays on the way to the gateway", async () => {
  let count = 0;
  await scripted([
    stream(message("a.1", event(1)), "destroyed"),
    stream(message("b.end", END, "end")),
    (answer) => answer.writeHead(307, { location: "http://127.0.0.1:1/elsewhere" }).end(),
  ], async ({ client, requests }) => {
    await read(client.watch("r"));
    assert.deepEqual(requests.map(({ headers }) => headers.authorization), ["Bearer t1", "Bearer t2"]);
    await assert.rejects(client.answer("r", []), { reason: "UNREACHABLE" });
  }, { token: async () => `t${(count += 1)}` });
});
