import assert from "node:assert/strict";
import { test } from "node:test";
import { Window } from "happy-dom";
import { END, event, message, scripted, stream } from "./server.js";

const window = new Window();
const { document, navigator } = window;
// Node has a navigator of its own from version 21 on, which cannot be assigned to.
for (const [name, value] of Object.entries({ window, document, navigator })) Object.defineProperty(globalThis, name, { value, configurable: true });
const { createElement, StrictMode } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useRun } = await import("../src/react.js");
const { textOf } = await import("../src/fold.js");
const { RunStore } = await import("../src/store.js");

test("a component shows the run through cuts, to its end", async () => {
  // Strict mode subscribes twice: the second time continues where the first one left.
  const whole = message("a.1", event(1, "one ")) + message("a.2", event(2, "<b>")) + message("b.end", END, "end");
  await scripted([stream(whole), stream(whole), stream(whole)], async ({ client }) => {
    const shown: string[] = [];
    const root = createRoot(document.createElement("div") as never);
    await new Promise<void>((resolve) => {
      const Page = () => {
        const { view, status } = useRun(client, "r");
        const text = `${status}: ${textOf(view)}`;
        shown.push(text);
        if (status === "ended") resolve();
        return createElement("p", null, text);
      };
      root.render(createElement(StrictMode, null, createElement(Page)));
    });
    root.unmount();
    assert.equal(shown.at(-1), "ended: one <b>");
    assert.equal(shown[0], "connecting: ");
  });
});

test("a store that nobody looks at any more keeps no connection, and continues for the next", async () => {
  let closed: (() => void) | undefined;
  const left = new Promise<void>((resolve) => { closed = resolve; });
  await scripted([
    (answer, request) => { request.on("close", closed!); stream(message("a.1", event(1, "one")), "frozen")(answer, request); },
    stream(message("a.2", event(2, " two")) + message("b.end", END, "end")),
  ], async ({ client, asked }) => {
    const store = new RunStore(client, "r");
    const seen = (status: string) => new Promise<() => void>((resolve) => {
      const stop = store.subscribe(() => { if (store.getSnapshot().status === status && textOf(store.getSnapshot().view)) resolve(stop); });
    });
    (await seen("live"))();
    await left;
    (await seen("ended"))();
    assert.equal(textOf(store.getSnapshot().view), "one two");
    assert.match(asked[1]!, /after a\.1$/);
  });
});

test("why a stream failed is shown", async () => {
  await scripted([stream(message("", JSON.stringify({ status: 404, reason: "RUN_NOT_FOUND", detail: "none" }), "problem"))], async ({ client }) => {
    const store = new RunStore(client, "r");
    await new Promise<void>((resolve) => { store.subscribe(() => { if (store.getSnapshot().status === "failed") resolve(); }); });
    assert.equal(store.getSnapshot().error?.reason, "RUN_NOT_FOUND");
  });
});
