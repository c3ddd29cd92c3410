// A worker of a scorer that is carried out here: node dist/src/score.js HOST:PORT. docs/external-scorers.md
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ProtoGrpcType } from "../generated/scorer_service.js";
import type { ClaimedScorerRun__Output } from "../generated/runwire/scorer/v1/ClaimedScorerRun.js";
import type { ClaimScorerRunsResponse__Output } from "../generated/runwire/scorer/v1/ClaimScorerRunsResponse.js";
import { details } from "./status.js";

const protos = fileURLToPath(new URL("../../../../proto", import.meta.url));
const definition = loader.loadSync("runwire/scorer/v1/scorer_service.proto",
  { includeDirs: [protos], longs: Number, enums: String, defaults: true, oneofs: true, keepCase: true });
const { ScorerService } = (grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType).runwire.scorer.v1;

const client = new ScorerService(process.argv[2] ?? "127.0.0.1:50052", grpc.credentials.createInsecure());
const call = <Q, A>(method: (request: Q, options: object, done: (error: grpc.ServiceError | null, answer?: A) => void) => unknown) =>
  (request: Q) => promisify<Q, object, A>(method.bind(client) as never)(request, { deadline: Date.now() + 30_000 });
const register = call(client.RegisterScorer), claim = call(client.ClaimScorerRuns), report = call(client.ReportScorerRun);

const scorer = { scorer_id: "node-brevity", version: "1" };
const worker = `node-${process.pid}-${Math.random().toString(36).slice(2)}`; // another after each start
const LEASE = 30; // seconds

// The scorer itself: whatever it throws is an attempt that failed.
async function score(run: ClaimedScorerRun__Output) {
  const text = run.sample?.output?.stringValue ?? "";
  if (!text) return { not_scorable: { reason: "the output is no text" } };
  return { score: { value: 1 / text.split(/\s+/).length, reason: `${text.length} characters` } };
}

async function carryOut(run: ClaimedScorerRun__Output): Promise<void> {
  const named = { worker, scorer_run_id: run.scorer_run_id, claim: run.claim, scorer_version: run.scorer_version };
  const renewing = setInterval(() => report({ ...named, extension: { lease: { seconds: LEASE } } }).catch(() => {}), LEASE * 333);
  const ended = await score(run).catch((error: Error) => ({ error: { message: error.message, error_class: error.name } }));
  clearInterval(renewing);
  for (;;) {
    try {
      await report({ ...named, ...ended }); // safe to repeat, until it is answered
      return;
    } catch (error) {
      if ((error as grpc.ServiceError).code !== grpc.status.UNAVAILABLE) {
        console.error(`${run.scorer_run_id}: ${details(error as grpc.ServiceError).reason}`); // CLAIM_LOST: others have it
        return;
      }
      await sleep(1000);
    }
  }
}

await register({ scorer: { ...scorer, description: "The fewer words, the better." } });
for (;;) {
  try {
    const asked = { worker, scorers: [scorer], max_scorer_runs: 10, wait: { seconds: 20 }, lease: { seconds: LEASE } };
    const answer = (await claim(asked)) as ClaimScorerRunsResponse__Output;
    await Promise.all(answer.scorer_runs.map(carryOut)); // nothing is in hand when it claims again
  } catch (error) {
    console.error(String(error));
    await sleep(1000);
  }
}
