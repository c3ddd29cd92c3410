export { approve, deny, RunwireClient, supply, type CallOptions, type StartOptions } from "./client.js";
export type { Options, Token } from "./connection.js";
export type { ResumePolicy } from "./delays.js";
export { RunwireError } from "./errors.js";
export { Fold, fold, textOf, toolCallsOf, type Counts, type Custom, type RunView, type Step, type ToolCall, type Turn } from "./fold.js";
export { RunStore, type Watched } from "./store.js";
export { RunStream, type Status, type WatchOptions } from "./watch.js";
export type * as proto from "./types.js";
export type { Answer, Json, MessageMode, PendingRequest, Run, RunError, RunEvent, RunState, ToolCallOutcome, Usage } from "./types.js";
