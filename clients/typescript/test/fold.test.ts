import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Fold, fold, textOf, type RunView } from "../src/fold.js";
import type { RunEvent } from "../src/types.js";

interface Vector { name: string; events: RunEvent[]; view: RunView }
const file = new URL("../../../../tests/vectors/fold.json", import.meta.url);
const vectors: Vector[] = JSON.parse(readFileSync(file, "utf8"));

for (const { name, events, view } of vectors) {
  test(`folds as Python does: ${name}`, () => {
    assert.deepEqual(JSON.parse(JSON.stringify(fold(events))), view);
    // Looked at after every event: no view that was given out changes, and the last is the same.
    const folded = new Fold();
    const seen = events.map((event) => {
      const now = folded.add(event).view;
      return { now, then: JSON.stringify(now) };
    });
    assert.deepEqual(JSON.parse(JSON.stringify(folded.view)), view);
    for (const { now, then } of seen) assert.equal(JSON.stringify(now), then);
  });
}

test("the text of a turn is that of its steps", () => {
  const said = (sequence: string, turn: number, text: string): RunEvent => ({ sequence, attempt: 1, step: turn, turn, textDelta: { text } });
  const view = fold([said("1", 1, "one"), said("2", 2, "two")]);
  assert.equal(textOf(view), "onetwo");
  assert.equal(textOf(view, 2), "two");
});
