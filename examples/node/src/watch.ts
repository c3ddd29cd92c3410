// Follows a run through every cut: each event once, in order, and a cursor that is safe to store.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ProtoGrpcType } from "../generated/agent_service.js";
import type { RunEvent__Output } from "../generated/runwire/agent/v1/RunEvent.js";
import type { WatchRunResponse__Output } from "../generated/runwire/agent/v1/WatchRunResponse.js";
import { details } from "./status.js";

const protos = fileURLToPath(new URL("../../../../proto", import.meta.url));
const definition = loader.loadSync("runwire/agent/v1/agent_service.proto",
  { includeDirs: [protos], longs: Number, enums: String, defaults: true, oneofs: true, keepCase: true });
export const { AgentService } = (grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType).runwire.agent.v1;

export interface Options { cursor?: string; heartbeatSeconds?: number; maxBatchSize?: number }
export class Refused extends Error { constructor(readonly reason: string, message = "") { super(message); this.name = reason; } }

// Calls handle with each event and save with each cursor, and returns the run's final state. Throws Refused where it
// cannot continue.
export async function watch(target: string, runId: string, options: Options,
  handle: (event: RunEvent__Output) => Promise<void>, save: (cursor: string) => void): Promise<string> {
  const place = { cursor: options.cursor ?? "", epoch: "", last: 0 };
  for (let bound = 50; ; bound = Math.min(bound * 1.6, 10_000)) {
    const before = place.last;
    // A connection of its own each time: a frozen one must not be used again.
    const client = new AgentService(target, credentials(), { "grpc.use_local_subchannel_pool": 1 });
    const call = client.WatchRun({ run_id: runId, max_batch_size: options.maxBatchSize ?? 0,
      heartbeat_interval: { seconds: options.heartbeatSeconds ?? 10 }, ...(place.cursor && { cursor: place.cursor }) });
    let silence = (options.heartbeatSeconds ?? 10) * 2500;
    let timer = setTimeout(() => call.cancel(), silence);
    let retryMs = 0;
    try {
      for await (const frame of call as AsyncIterable<WatchRunResponse__Output>) {
        clearTimeout(timer); // the handler may take its time
        if (frame.opened) {
          if (place.epoch && frame.opened.epoch !== place.epoch) throw new Refused("CURSOR_EPOCH_MISMATCH");
          place.epoch = frame.opened.epoch;
          const { seconds, nanos } = frame.opened.heartbeat_interval!;
          silence = (Number(seconds) * 1000 + nanos / 1e6) * 2.5;
        }
        for (const event of frame.batch?.events ?? []) {
          const sequence = Number(event.sequence);
          if (place.last && sequence <= place.last) continue; // sent again
          if (place.last && sequence > place.last + 1) throw new Refused("EVENTS_LOST");
          await handle(event);
          place.last = sequence;
        }
        if (frame.cursor && frame.cursor !== place.cursor) save(place.cursor = frame.cursor); // all of the frame is handled
        if (frame.ended) return frame.ended.state;
        timer = setTimeout(() => call.cancel(), silence);
      }
      // OK without `ended` is a cut like any other.
    } catch (error) {
      if (error instanceof Refused) throw error;
      retryMs = resumable(error as grpc.ServiceError).retryMs;
    } finally {
      clearTimeout(timer);
      call.cancel();
      client.close();
    }
    if (place.last > before) bound = 50; // only a new event makes the next wait a short one
    await sleep(Math.random() * bound + retryMs);
  }
}

// Over TLS where RUNWIRE_CA names whom to trust, with the token that RUNWIRE_TOKEN_FILE or RUNWIRE_TOKEN has. The file is
// read at each connection: a token is renewed by renewing it.
function credentials(): grpc.ChannelCredentials {
  const { RUNWIRE_CA: ca, RUNWIRE_TOKEN_FILE: file, RUNWIRE_TOKEN: token } = process.env;
  if (!ca) return grpc.credentials.createInsecure();
  const encrypted = grpc.credentials.createSsl(readFileSync(ca));
  const proof = file ? readFileSync(file, "utf8").trim() : token;
  if (!proof) return encrypted;
  return grpc.credentials.combineChannelCredentials(encrypted, grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${proof}`);
    done(null, metadata);
  }));
}

function resumable(error: grpc.ServiceError): { retryMs: number } {
  const { reason, retryMs } = details(error);
  // What does not parse would come again: that is no cut.
  if (/parsing error/i.test(error.details)) throw new Refused("FRAME_UNREADABLE", error.details);
  const { UNAVAILABLE, CANCELLED, RESOURCE_EXHAUSTED, INTERNAL } = grpc.status;
  if (error.code === UNAVAILABLE || error.code === CANCELLED) return { retryMs }; // CANCELLED: by our own watchdog
  if (error.code === RESOURCE_EXHAUSTED && ["SLOW_CONSUMER", "TOO_MANY_STREAMS"].includes(reason)) return { retryMs };
  if (error.code === INTERNAL && /RST_STREAM|EOS|end of stream/i.test(error.details)) return { retryMs };
  throw new Refused(reason || grpc.status[error.code] || error.name, error.message);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [target, runId, cursor] = process.argv.slice(2);
  if (!target || !runId) { console.error("usage: node watch.js HOST:PORT RUN [CURSOR]"); process.exit(2); }
  let saved = cursor ?? "";
  try {
    const state = await watch(target, runId, { cursor: saved },
      async (event) => { process.stdout.write(event.text_delta?.text ?? ""); }, (cursor) => { saved = cursor; });
    console.error(`${state}, cursor ${saved}`);
    process.exitCode = state === "RUN_STATE_SUCCEEDED" ? 0 : 1;
  } catch (error) {
    console.error(String(error));
    process.exitCode = 1;
  }
}
