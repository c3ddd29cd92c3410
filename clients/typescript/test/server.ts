// A gateway that does as it is told: each request is answered by the next of the given handlers.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { RunwireClient } from "../src/client.js";
import type { Options } from "../src/connection.js";

export type Handler = (answer: ServerResponse, request: IncomingMessage) => void;

export interface Scripted {
  client: RunwireClient;
  /** What was asked: `GET /v1/runs/r/events after ID`. */
  asked: string[];
  requests: IncomingMessage[];
}

export async function scripted(handlers: Handler[], body: (it: Scripted) => Promise<void>, options: Options = {}): Promise<void> {
  const asked: string[] = [];
  const requests: IncomingMessage[] = [];
  const server = createServer((request, answer) => {
    const last = request.headers["last-event-id"];
    asked.push(`${request.method} ${request.url}${last ? ` after ${String(last)}` : ""}`);
    requests.push(request);
    const handler = handlers.shift();
    if (handler) handler(answer, request);
    else answer.writeHead(500).end("nothing more was expected");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const resume = { firstDelaySeconds: 0.001, maxDelaySeconds: 0.002, giveUpSeconds: 5, ...options.resume };
  try {
    await body({ client: new RunwireClient({ url: `http://127.0.0.1:${port}`, ...options, resume }), asked, requests });
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

export const event = (sequence: number, text = "x") => JSON.stringify({ sequence: String(sequence), attempt: 1, step: 1, textDelta: { text } });
export const message = (id: string, data: string, name = "") => `${name && `event: ${name}\n`}id: ${id}\ndata: ${data}\n\n`;
export const END = JSON.stringify({ runId: "r", state: "RUN_STATE_SUCCEEDED" });

/** A stream of `text`; `cut` how it ends. */
export function stream(text: string, cut: "ended" | "destroyed" | "frozen" = "ended", heartbeatSeconds = 15): Handler {
  return (answer) => {
    answer.writeHead(200, { "content-type": "text/event-stream", "runwire-heartbeat-seconds": heartbeatSeconds });
    answer.write(text, () => {
      if (cut === "ended") answer.end();
      if (cut === "destroyed") answer.destroy();
    });
  };
}

export function problem(status: number, reason: string, more: object = {}, headers: Record<string, string> = {}): Handler {
  return (answer) => {
    answer.writeHead(status, { "content-type": "application/problem+json", ...headers });
    answer.end(JSON.stringify({ title: "no", status, detail: "not this", reason, ...more }));
  };
}

export function json(value: object, status = 200): Handler {
  return (answer) => {
    answer.writeHead(status, { "content-type": "application/json" });
    answer.end(JSON.stringify(value));
  };
}
