import { Connection, type Options } from "./connection.js";
import type { Answer, Json, MessageMode, Run, ScorerRef, SendMessageResponse } from "./types.js";
import { RunStream, type WatchOptions } from "./watch.js";

/** What a call that makes something new takes besides. */
export interface CallOptions {
  /** Makes the call safe to repeat, also by you. Without one the client makes one up, and repeats by itself. */
  requestId?: string;
  signal?: AbortSignal;
}

export interface StartOptions extends CallOptions {
  labels?: { [key: string]: string };
  scorers?: ScorerRef[];
  /** Keep the run open for messages. */
  conversation?: boolean;
}

/** Runs, by a gateway. Errors are RunwireErrors with the reason that the service gave. */
export class RunwireClient {
  private readonly connection: Connection;

  constructor(options: Options = {}) {
    this.connection = new Connection(options);
  }

  /** Follows a run through every cut; see RunStream. */
  watch(runId: string, options: WatchOptions = {}): RunStream {
    return new RunStream(this.connection, runId, options);
  }

  startRun(agentId: string, input: Json, options: StartOptions = {}): Promise<Run> {
    const { labels, scorers, conversation, signal } = options;
    const body = { input, ...made(options), ...(labels && { labels }), ...(scorers && { scorers }), ...(conversation && { conversation: {} }) };
    return this.connection.call("POST", `/v1/agents/${encodeURIComponent(agentId)}/runs`, body, true, signal);
  }

  getRun(runId: string, options: { signal?: AbortSignal } = {}): Promise<Run> {
    return this.connection.call("GET", path(runId), undefined, true, options.signal);
  }

  /** Gives a message to a conversation: by default after the turn that is under way. */
  sendMessage(runId: string, message: Json, options: CallOptions & { mode?: MessageMode } = {}): Promise<SendMessageResponse> {
    const body = { message, mode: options.mode ?? "MESSAGE_MODE_QUEUE", ...made(options) };
    return this.connection.call("POST", `${path(runId)}/messages`, body, true, options.signal);
  }

  /** Ends a conversation once its messages are consumed. */
  endConversation(runId: string, options: { signal?: AbortSignal } = {}): Promise<Run> {
    return this.connection.call("POST", `${path(runId)}/end`, {}, true, options.signal);
  }

  /** Answers what a suspended run waits for; see approve, deny and supply. Not repeated: the run may have gone on. */
  answer(runId: string, answers: Answer | Answer[], options: { signal?: AbortSignal } = {}): Promise<Run> {
    return this.connection.call("POST", `${path(runId)}/answers`, { answers: [answers].flat() }, false, options.signal);
  }

  cancelRun(runId: string, options: { reason?: string; signal?: AbortSignal } = {}): Promise<Run> {
    return this.connection.call("POST", `${path(runId)}/cancel`, { reason: options.reason ?? "" }, true, options.signal);
  }

  /** Continues with a failed run in another, from the step that failed. */
  forkRun(runId: string, options: CallOptions = {}): Promise<Run> {
    return this.connection.call("POST", `${path(runId)}/forks`, made(options), true, options.signal);
  }
}

/** Lets a tool call happen, perhaps with other arguments. */
export function approve(requestId: string, overrideArguments?: { [key: string]: Json }): Answer {
  return { requestId, approve: overrideArguments ? { overrideArguments } : {} };
}

/** Forbids a tool call; the model is told `message`. */
export function deny(requestId: string, message = ""): Answer {
  return { requestId, deny: { message } };
}

/** Gives the data, or the tool's result, that a run waits for. */
export function supply(requestId: string, data: Json): Answer {
  return { requestId, data };
}

function path(runId: string): string {
  return `/v1/runs/${encodeURIComponent(runId)}`;
}

function made({ requestId }: CallOptions): { requestId: string } {
  return { requestId: requestId ?? randomId() };
}

/** crypto.randomUUID is for secure contexts only; a page on plain HTTP has getRandomValues. */
function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
