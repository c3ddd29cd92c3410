import assert from "node:assert/strict";
import { test } from "node:test";
import { Parser, type Message } from "../src/sse.js";

const encoder = new TextEncoder();
const read = (pieces: Uint8Array[], parser = new Parser()): Message[] => pieces.flatMap((piece) => [...parser.take(piece)]);

test("messages are the same wherever the bytes are cut", () => {
  for (const end of ["\n", "\r", "\r\n"]) {
    const lines = ["\ufeff: comment", "id: a", "data: ä€😀", "data:second", "", "event: end", "id: b.1", "data", "", "id: c", "data: not whole"];
    const bytes = encoder.encode(lines.join(end));
    const wanted = [
      { event: "message", data: "ä€😀\nsecond", id: "a" },
      { event: "end", data: "", id: "b.1" },
    ];
    assert.deepEqual(read([...bytes].map((byte) => Uint8Array.of(byte))), wanted);
    for (let cut = 0; cut <= bytes.length; cut += 1) assert.deepEqual(read([bytes.slice(0, cut), bytes.slice(cut)]), wanted);
  }
});

test("an id holds for the messages after it, and one with NUL is none", () => {
  const taken = read([encoder.encode("id: a\ndata: 1\n\nid: b\0\ndata: 2\n\nid\ndata: 3\n\n")]);
  assert.deepEqual(taken.map(({ id }) => id), ["a", "a", ""]);
});

test("a message of 5 MB in small pieces is read in time that grows with its size alone", () => {
  const bytes = encoder.encode(`data: ${"x".repeat(5_000_000)}\n\n`);
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += 500) pieces.push(bytes.subarray(at, at + 500));
  assert.equal(read(pieces)[0]?.data.length, 5_000_000);
});

test("a message without an end is not kept without bounds", () => {
  const parser = new Parser();
  const piece = encoder.encode("x".repeat(4 * 1024 * 1024));
  assert.throws(() => { for (let count = 0; count < 10; count += 1) read([piece], parser); }, { reason: "FRAME_UNREADABLE" });
  const many = new Parser();
  const line = encoder.encode(`data: ${"x".repeat(4 * 1024 * 1024)}\n`);
  assert.throws(() => { for (let count = 0; count < 10; count += 1) read([line], many); }, { reason: "FRAME_UNREADABLE" });
});
