// Generated from proto/ by generate.py; do not edit.
// Protobuf JSON: 64-bit integers are text, what is empty is left out.

/** What JSON can hold. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Where a stream begins. */
export type StartPosition =
  | "START_POSITION_UNSPECIFIED"
  /** At the oldest event that is kept. */
  | "START_POSITION_EARLIEST"
  /** After the newest event. */
  | "START_POSITION_LATEST";

/** What a stream does where events are gone. */
export type GapPolicy =
  | "GAP_POLICY_UNSPECIFIED"
  /** End with OUT_OF_RANGE / CURSOR_EXPIRED. */
  | "GAP_POLICY_FAIL"
  /** Send a `gap` frame and continue. */
  | "GAP_POLICY_NOTIFY";

/** Why a server ends a healthy stream. */
export type CloseReason =
  | "CLOSE_REASON_UNSPECIFIED"
  /** The server shuts down. */
  | "CLOSE_REASON_DRAINING"
  /** The stream has reached the greatest age this server allows. */
  | "CLOSE_REASON_MAX_AGE";

export interface ListAgentsRequest {
  /** At most this many agents; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListAgentsResponse {
  /** In order of agent_id. */
  agents?: Agent[];
  /** Empty: this was the last page. */
  nextPageToken?: string;
}

export interface StartRunRequest {
  agentId?: string;
  /**
   * Must fit Agent.input_schema. At most 1 MiB. For an agent: a text, or a list of texts and parts, each an object with
   * `type` (`text`, `image`, `audio`, `video`, `document`), and `text`, or `url`, or `data` (base64) and `media_type`.
   */
  input?: Json;
  /**
   * Makes the call safe to repeat: the same id with the same request returns the same run. At most 128
   * characters; a UUID is recommended. Empty: every call starts a run.
   */
  requestId?: string;
  /** At most 32; keys up to 63 characters, values up to 255. */
  labels?: { [key: string]: string };
  /**
   * Scorers to ask for beside those of the agent: at most 32, of 256 KiB together. One of the agent's with the same
   * id is replaced.
   */
  scorers?: ScorerRef[];
  /**
   * Time the run has from now to its end, at most ten years; then it fails with reason `deadline_exceeded`. Unset: no
   * limit.
   */
  timeout?: string;
  /**
   * W3C trace context of the caller, at most 256 and 512 characters; the run's spans continue it. Empty: as in the
   * call's metadata.
   */
  traceparent?: string;
  tracestate?: string;
  /**
   * Set: the run is a conversation. It stays open after its first turn, of which `input` is the message, and takes more
   * by SendMessage until EndConversation, CancelRun or its idle time-out.
   */
  conversation?: Conversation;
  /**
   * What the agent's code is to know beside its input, and the model is not told: who asks, which account, which
   * settings. Kept with the run and shown by GetRun; no list shows it or finds a run by it. At most 64 KiB.
   */
  context?: { [key: string]: Json };
  /**
   * The model that this run is to use, and its settings, where the agent lets its callers choose: one of Agent.models,
   * with those of Agent.model_settings. Unset: as the agent has it.
   */
  model?: ModelChoice;
  /**
   * The input of an agent as messages, in the place of `input`: kept, and shown everywhere, as the list of objects that
   * is described there. At most 1 MiB in that form, in which bytes are a third longer: what is larger goes by URL.
   */
  parts?: InputPart[];
}

export interface StartRunResponse {
  run?: Run;
}

export interface GetRunRequest {
  runId?: string;
}

export interface GetRunResponse {
  run?: Run;
}

export interface ListRunsRequest {
  /** Only runs of this agent. */
  agentId?: string;
  /** Only runs in one of these states. */
  states?: RunState[];
  /** Only runs that carry all of these labels with these values. */
  labels?: { [key: string]: string };
  /** Only runs created at this time or later. */
  createdAfter?: string;
  /** Only runs created before this time. */
  createdBefore?: string;
  /** At most this many runs; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListRunsResponse {
  /** Newest first. */
  runs?: Run[];
  /** Empty: this was the last page. A page may hold fewer runs than asked for and still not be the last. */
  nextPageToken?: string;
}

export interface WatchRunRequest {
  runId?: string;
  /** After the frame that carried this cursor. */
  cursor?: string;
  position?: StartPosition;
  /** How often to hear from an idle stream, 1 to 60 seconds. Unset: 10 seconds. */
  heartbeatInterval?: string;
  /**
   * At most this many events a batch, 1 to 4096. 0: 4096. A batch is at most 256 KiB in any case, a single larger event
   * excepted, and smaller at first.
   */
  maxBatchSize?: number;
  /** What to do where events are gone. Unspecified means GAP_POLICY_FAIL. */
  gapPolicy?: GapPolicy;
}

/** One frame of a stream. */
export interface WatchRunResponse {
  /** Position after this frame. Opaque, URL-safe, below 256 characters; no secret, and grants nothing. */
  cursor?: string;
  opened?: Opened;
  batch?: Batch;
  caughtUp?: CaughtUp;
  heartbeat?: Heartbeat;
  gap?: Gap;
  closing?: Closing;
  ended?: Ended;
}

/** First frame, sent at once. */
export interface Opened {
  /** Identity of the log: another epoch is another log. */
  epoch?: string;
  /** Whether the stream continues from a cursor. */
  resumed?: boolean;
  /** Oldest event that is kept; 0 while the log is empty. */
  earliestSequence?: string;
  /** Newest event; 0 while the log is empty. */
  latestSequence?: string;
  /** Interval in force. */
  heartbeatInterval?: string;
}

/** Events in ascending, dense order. */
export interface Batch {
  events?: RunEvent[];
}

/** Everything that was committed before the request has been sent. Comes once a stream. */
export interface CaughtUp {
}

/** There is nothing new up to the cursor of this frame. */
export interface Heartbeat {
  sendTime?: string;
}

/** These events are gone. */
export interface Gap {
  firstSequence?: string;
  lastSequence?: string;
}

/** This server is about to end a healthy stream. Connect again after the delay. */
export interface Closing {
  reason?: CloseReason;
  retryDelay?: string;
}

/** The run has ended and all of its events have been sent. Status OK follows. */
export interface Ended {
  state?: RunState;
  lastSequence?: string;
}

export interface ListRunEventsRequest {
  runId?: string;
  /** Begin after this cursor. Empty: at the oldest event that is kept. */
  cursor?: string;
  /** At most this many events; 0 means 100, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListRunEventsResponse {
  events?: RunEvent[];
  /** Empty: there is nothing newer for now. */
  nextPageToken?: string;
  /** Position after the last event of this page. */
  cursor?: string;
}

export interface CancelRunRequest {
  runId?: string;
  /** Why, for people who read the run later. At most 2,000 characters. */
  reason?: string;
}

export interface CancelRunResponse {
  run?: Run;
}

export interface ResumeRunRequest {
  runId?: string;
  /** At most 1,000, of 1 MiB together. */
  answers?: Answer[];
}

export interface ResumeRunResponse {
  run?: Run;
}

export interface CreateRunTokenRequest {
  runId?: string;
  /** How long the token is good, 1 second to an hour. Unset: 15 minutes. */
  lifetime?: string;
}

export interface CreateRunTokenResponse {
  /** Give it as any other: `authorization: Bearer TOKEN`. */
  token?: string;
  /** Streams end then, too, with STREAM_MAX_AGE. */
  expireTime?: string;
}

export interface SendMessageRequest {
  runId?: string;
  /** For an agent it must fit Agent.input_schema; a workflow takes any. At most 1 MiB. */
  message?: Json;
  /** Unspecified means MESSAGE_MODE_QUEUE. */
  mode?: MessageMode;
  /**
   * Makes the call safe to repeat: the same id with the same message is accepted once. Remembered for the newest 1,000
   * messages. At most 128 characters. Empty: every call is a message.
   */
  requestId?: string;
}

export interface SendMessageResponse {
  /**
   * Number of the message in the conversation, from 1, which is the run's input. Turn.message_number tells the turn that
   * began with it, MessageReceived.message_number the one that was steered by it.
   */
  messageNumber?: string;
}

export interface EndConversationRequest {
  runId?: string;
}

export interface EndConversationResponse {
  run?: Run;
}

export interface ListTurnsRequest {
  runId?: string;
  /** At most this many turns; 0 means 50, above 100 is 100. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListTurnsResponse {
  /** Oldest first, with message and output as far as the log still has them. */
  turns?: Turn[];
  /** Empty: this was the last page. */
  nextPageToken?: string;
}

export interface ListWorkersRequest {
  /** At most this many; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListWorkersResponse {
  /** In order of `worker`. */
  workers?: Worker[];
  /** Empty: this was the last page. */
  nextPageToken?: string;
}

/** A process that executes runs. */
export interface Worker {
  /** Its name: host, process id, and a part that is another after each start. Attempt.worker, and in its log. */
  worker?: string;
  host?: string;
  /** Of Runwire. */
  version?: string;
  /** What it can do, in order of agent_id; without an entry in `agents` a run waits for another worker. */
  agents?: WorkerAgent[];
  /** How many runs it executes now, of all agents and those that it executes in processes of their own. */
  running?: number;
  /** How many more it would take. */
  room?: number;
  /** It takes no more runs and ends when those that it has are done or handed back. */
  draining?: boolean;
  startTime?: string;
  /** When it last said all this. */
  seenTime?: string;
}

/** An agent that a worker has. */
export interface WorkerAgent {
  agentId?: string;
  version?: string;
  /** How many of its runs the worker executes now, but those in processes of their own. */
  running?: number;
}

export interface ListQueuesRequest {
  /** At most this many; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListQueuesResponse {
  /** In order of agent_id: each agent of this process or of a worker, and each of which something waits. */
  queues?: RunQueue[];
  /** Empty: this was the last page. */
  nextPageToken?: string;
}

/** The runs of an agent that are to be done. */
export interface RunQueue {
  agentId?: string;
  /** Runs that are due and that no worker has, up to 10,000. */
  due?: string;
  /**
   * Runs whose time is to come, up to 10,000: those that sleep, those that are tried again later, and those that a worker
   * has.
   */
  ahead?: string;
  /** Runs that workers execute. */
  running?: string;
  /** How long the run that is due longest has been so; unset where none is due. */
  oldestDueAge?: string;
  /** Workers that have the agent and are not draining. 0 while something is due: it waits for nobody. */
  workers?: number;
  /**
   * How many more runs of the agent those workers would take together; what they would take of other agents instead is
   * counted there too.
   */
  room?: number;
  /** The versions that those workers have, in order. */
  versions?: string[];
  /**
   * What is bound to a version of the agent, because it was accepted or begun by it, in order of the versions: those that
   * have work, and those that a worker has. The numbers above count it too, and what any version may continue with besides.
   */
  byVersion?: RunQueueVersion[];
}

/** The runs of one version of an agent that are to be done. */
export interface RunQueueVersion {
  version?: string;
  /** As in RunQueue. */
  due?: string;
  ahead?: string;
  /** Runs that workers with this version execute. */
  running?: string;
  oldestDueAge?: string;
  /**
   * Workers that have this version and are not draining. 0 while something is due: it waits for them, and after a while
   * the agent's on_version_change says what becomes of it.
   */
  workers?: number;
}

export interface ForkRunRequest {
  /** The run to continue from. It stays as it is. */
  runId?: string;
  /** Makes the call safe to repeat, as StartRunRequest.request_id does; the two share their ids. */
  requestId?: string;
  /** Only of a conversation: this turn and those after it are not taken over. At most one more than there are. */
  turn?: number;
  /** Only of a run that is none: this step and those with higher numbers are done again. 1: everything is. */
  step?: number;
  /** The same by the name that a workflow gave to the step. At most 256 characters. */
  stepName?: string;
  /**
   * In place of the run's input, or of the message of the turn. Unset: as it was; a conversation that is forked after its
   * last turn waits for a message. At most 1 MiB.
   */
  message?: Json;
  /** Another agent of the same kind that continues, such as the same one with another model. Empty: the run's. */
  agentId?: string;
  /** The new conversation waits for a message, also where there is one to be answered again. Not with `message`. */
  wait?: boolean;
  /** The model that the new run is to use, as StartRunRequest.model. Unset: as the other run, where the agent is the same. */
  model?: ModelChoice;
}

export interface ForkRunResponse {
  /** The new run. */
  run?: Run;
}

/** Which runs. What is set must all fit; an empty filter selects every run. */
export interface RunFilter {
  agentId?: string;
  /** Any of these. */
  states?: RunState[];
  /** All of these. */
  labels?: { [key: string]: string };
  createdAfter?: string;
  createdBefore?: string;
}

export interface DeleteRunsRequest {
  /** By id, at most 1000; or by filter if empty. One of the two must be given. */
  runIds?: string[];
  filter?: RunFilter;
  /** Counts and names what would be deleted, and changes nothing. */
  dryRun?: boolean;
  /** Cancels selected runs that have not ended. They are deleted by a later call, once they have. */
  cancel?: boolean;
  /** With filter: how many runs a call looks at, newest first; at most 500, which is the default. */
  pageSize?: number;
  pageToken?: string;
}

export interface DeleteRunsResponse {
  /** How many were, or with dry_run would be, deleted by this call. */
  count?: string;
  /** Their ids. */
  runIds?: string[];
  /** Runs that had not ended, and were (would be) cancelled. */
  cancelled?: string;
  /** Runs that had not ended, and were left alone. */
  skipped?: string;
  /** Where to continue; empty when all are done. */
  nextPageToken?: string;
}

/** How an agent is written. */
export type AgentKind =
  | "AGENT_KIND_UNSPECIFIED"
  /** A pydantic-ai agent: a model that calls tools in a loop. */
  | "AGENT_KIND_AGENT"
  /** A function of (context, input). */
  | "AGENT_KIND_WORKFLOW";

/** When a message is consumed. In all modes the order is that of acceptance: no message overtakes another. */
export type MessageMode =
  | "MESSAGE_MODE_UNSPECIFIED"
  /** Begins a turn of its own, after the turns of all messages before it. */
  | "MESSAGE_MODE_QUEUE"
  /**
   * Is given to the model with its next request in the turn of the message before it. If that turn makes no other
   * request, it begins a turn of its own. Agents only.
   */
  | "MESSAGE_MODE_STEER"
  /**
   * Cancels the turn under way and those of all messages before it that are still to come; each keeps what was said
   * until then. Begins a turn of its own. Agents only.
   */
  | "MESSAGE_MODE_INTERRUPT";

/** State of a run. SUCCEEDED, FAILED and CANCELLED are terminal. */
export type RunState =
  | "RUN_STATE_UNSPECIFIED"
  /** Accepted; no worker has claimed it yet. */
  | "RUN_STATE_QUEUED"
  /** A worker executes it, or will again as soon as a crashed worker's lease has ended. */
  | "RUN_STATE_RUNNING"
  /** Waits for ResumeRun or for a time; holds no worker. */
  | "RUN_STATE_SUSPENDED"
  | "RUN_STATE_SUCCEEDED"
  | "RUN_STATE_FAILED"
  | "RUN_STATE_CANCELLED"
  /** A conversation between two turns: waits for a message; holds no worker. */
  | "RUN_STATE_WAITING";

/** What kind of answer a suspended run waits for. */
export type PendingKind =
  | "PENDING_KIND_UNSPECIFIED"
  /** A tool call that a person must approve or deny. */
  | "PENDING_KIND_APPROVAL"
  /** A tool call that somebody else executes; the answer is its result. */
  | "PENDING_KIND_EXTERNAL_TOOL"
  /** A workflow asked for data. */
  | "PENDING_KIND_DATA"
  /** A moment in time; no answer is wanted. */
  | "PENDING_KIND_TIME";

/** An agent or a workflow that this service can run. */
export interface Agent {
  /** Stable identifier, chosen by the agent's author. */
  agentId?: string;
  /** What the agent does, in a sentence. */
  description?: string;
  kind?: AgentKind;
  /** Version of the agent's code, as declared by its author; empty when none was declared. */
  version?: string;
  /** JSON Schema (2020-12) of a valid input. */
  inputSchema?: { [key: string]: Json };
  /** JSON Schema (2020-12) of the output of a run that succeeded. */
  outputSchema?: { [key: string]: Json };
  /** Scorers that every run of this agent asks for. */
  scorers?: ScorerRef[];
  /** Models that a run may ask for, in order of name. Empty: none but the agent's own. */
  models?: string[];
  /** Names of the settings of the model that a run may ask for, such as `temperature`, in order. */
  modelSettings?: string[];
}

/** Which model a run uses. */
export interface ModelChoice {
  /** One of Agent.models. Empty: the agent's own. */
  model?: string;
  /** By name, each one of Agent.model_settings. At most 4 KiB. */
  settings?: { [key: string]: Json };
}

/** A part of an agent's input. */
export interface InputPart {
  text?: string;
  image?: Media;
  audio?: Media;
  video?: Media;
  document?: Media;
}

/** What is no text. */
export interface Media {
  /**
   * http:// or https://, at most 8,192 characters. Read by the model's provider, or by the agent's worker where the
   * provider reads none.
   */
  url?: string;
  data?: string;
  /** Such as `image/png`. Must be set with `data`. */
  mediaType?: string;
}

/** Asks that a scorer scores a run. */
export interface ScorerRef {
  /** The scorer's identifier in the scorer service. */
  scorerId?: string;
  /**
   * Share of runs to score, 0 to 1. Unset means 1: every run. The decision is a deterministic function of
   * the run id: the first 48 bits of sha256(run_id) / 2^48 < sampling. Rates therefore nest.
   */
  sampling?: number;
  /** Scorer version wanted. Empty: the newest version that the scorer service has. */
  scorerVersion?: string;
  /**
   * Score only runs that carry all of these labels with these values. A run that does not is not eligible,
   * and no request is made for it.
   */
  matchLabels?: { [key: string]: string };
  /** Score only runs that end in one of these states, which are terminal ones. Empty: RUN_STATE_SUCCEEDED only. */
  matchStates?: RunState[];
  /** Settings for the scorer, such as the keywords of `keyword-coverage`. */
  options?: { [key: string]: Json };
  /**
   * Tells this use of the scorer from others, in ids, lists, statistics and exports: so that one scorer can score a run
   * several times, with other options or versions. At most 128 printable characters. Empty: the one without a name. Two
   * references of one request to the same scorer under the same name are INVALID_ARGUMENT; one of a StartRunRequest
   * takes the place of its agent's.
   */
  name?: string;
  /** In a conversation: score it as a whole once it has ended, and not each of its turns. */
  wholeConversation?: boolean;
}

/** One execution of an agent. A run is an append-only log of events; this message is its current summary. */
export interface Run {
  runId?: string;
  agentId?: string;
  state?: RunState;
  /** The input the run was started with. */
  input?: Json;
  /**
   * The result. Set when the state is RUN_STATE_SUCCEEDED; when it is RUN_STATE_CANCELLED if the agent ended in its own
   * way and returned something; and when the run FAILED because of it (`output_invalid`).
   */
  output?: Json;
  /** Why the run failed. Set when the state is RUN_STATE_FAILED. */
  error?: RunError;
  /** Number of the latest attempt, from 1. 0: no worker has claimed the run yet. */
  attempt?: number;
  labels?: { [key: string]: string };
  /**
   * What the run had used up when it was last suspended, handed back or ended. (The log tells it step by step.) What an
   * attempt that died had used is counted by the next one that executes the agent.
   */
  usage?: Usage;
  /** Sequence of the newest event; 0 while the log is empty. */
  lastSequence?: string;
  /** Position after the newest event: give it to WatchRun to get only what comes later. */
  cursor?: string;
  createTime?: string;
  /** When a worker first claimed the run. */
  startTime?: string;
  /** When the run reached its terminal state. */
  endTime?: string;
  /** When the log of a finished run will be purged. Unset while the run is not terminal. */
  expireTime?: string;
  /** Scorers the run asks for when it ends: those of its agent and those of its StartRunRequest. */
  scorers?: ScorerRef[];
  /** Version of the agent's code that executes the run; while it is queued, of the one that accepted it. */
  agentVersion?: string;
  /** What the run waits for. Set when the state is RUN_STATE_SUSPENDED. */
  pending?: PendingRequest[];
  /** Time the run has from its creation to its end; it fails with reason `deadline_exceeded` after that. */
  timeout?: string;
  /** The attempts so far, oldest first; at most the newest 50. */
  attempts?: Attempt[];
  /** Whether cancellation was asked for. */
  cancelRequested?: boolean;
  /**
   * Only in lists: names of the fields that are left out here because the run is large, of `input`, `output`, `scorers`,
   * `pending`, `attempts` and `error.message`. GetRun has them.
   */
  omitted?: string[];
  /** Who started it: the subject of the token or certificate. Empty without authentication. */
  owner?: string;
  /** Set when the run is a conversation. */
  conversation?: Conversation;
  /** The newest turn of a conversation, without its message and output: the log and ListTurns have them. */
  turn?: Turn;
  /** Who first asked it to stop, likewise. Empty without authentication, and while nobody has. */
  cancelledBy?: string;
  /** The run that this one continues from; see ForkRun. */
  forkedFrom?: string;
  /** As in its StartRunRequest. Only in answers about one run: no list has it. */
  context?: { [key: string]: Json };
  /** The model that it asked for. Unset: the agent's own. */
  model?: ModelChoice;
  /**
   * Trace that the run's spans are in, 32 hex digits: that of StartRun's caller, or a new one where this service traces.
   * Empty without either.
   */
  traceId?: string;
  /** The newest event of that run that is part of what was taken over; 0: none is. */
  forkedFromSequence?: string;
  /** The turn, or the step, of that run which is the first to be done again. 0: it was forked where it ended. */
  forkedFromTurn?: number;
  forkedFromStep?: number;
}

/** How a conversation is kept. */
export interface Conversation {
  /** Ends the conversation, SUCCEEDED, once it has waited for a message for this long; at most ten years. Unset: never. */
  idleTimeout?: string;
}

/** One message and what the agent does with it. */
export interface Turn {
  /** From 1. */
  turn?: number;
  /** RUN_STATE_RUNNING, or how it ended: RUN_STATE_SUCCEEDED, RUN_STATE_FAILED or RUN_STATE_CANCELLED. */
  state?: RunState;
  /** The message that it began with. */
  message?: Json;
  /** SendMessageResponse.message_number of that message. */
  messageNumber?: string;
  /** The result, and for a cancelled turn what had been said until then. */
  output?: Json;
  /** Why it failed. */
  error?: RunError;
  /** What it used. */
  usage?: Usage;
  /** Of its TurnStarted, the latest where it was begun again. */
  firstSequence?: string;
  /** Of its TurnFinished; 0 while it runs. */
  lastSequence?: string;
  startTime?: string;
  endTime?: string;
  /** Number of its first step: steps are numbered through the whole run. */
  firstStep?: number;
  /** Of its last step; one less than first_step where it had none. */
  lastStep?: number;
}

/** Why a run failed. */
export interface RunError {
  /**
   * Machine-readable, lower snake case: `agent_error`, `worker_lost`, `budget_exceeded`, `deadline_exceeded`,
   * `output_invalid` (it is not of the type that the agent declares), `agent_changed`, `model_error`,
   * `events_lost`, `run_unreadable` (what is stored of it is damaged, or no run of an agent that is there),
   * `internal_error` (it was executed, and its end could not be written as it was). Of a tool call: `tool_error`.
   */
  reason?: string;
  /** For a person. Never carries secrets or a traceback. */
  message?: string;
  /** Class of the exception that ended the run, where there was one. */
  errorClass?: string;
}

/** What a run, or a step of it, used up. */
export interface Usage {
  requests?: string;
  inputTokens?: string;
  outputTokens?: string;
  toolCalls?: string;
}

/** One worker's try at a run. */
export interface Attempt {
  /** From 1. */
  attempt?: number;
  /** The worker process, named at random at its start. */
  worker?: string;
  startTime?: string;
  /** Unset while the attempt runs, and when its worker died. */
  endTime?: string;
  /** How it ended: `finished`, `suspended`, `released`, `retrying` or `worker_lost`; empty while it runs. */
  outcome?: string;
}

/** Something that a suspended run waits for. */
export interface PendingRequest {
  /** Identifies the request within the run. Give it back in Answer. */
  requestId?: string;
  kind?: PendingKind;
  /** Name of the tool, or of the workflow's request. */
  name?: string;
  /** The tool's arguments, or the data the workflow attached. */
  arguments?: Json;
  /** JSON Schema of the data an answer must supply; unset when any data will do. */
  schema?: { [key: string]: Json };
  /** When the request lapses. Unset: never. */
  deadline?: string;
  /** The model's id of the tool call, as ToolCallStarted has it. Empty for a workflow's request. */
  toolCallId?: string;
  /**
   * What the tool says to the person who decides, such as why it asks: the metadata of pydantic-ai's ApprovalRequired and
   * CallDeferred.
   */
  metadata?: { [key: string]: Json };
}

/** How a tool call ended. */
export type ToolCallOutcome =
  | "TOOL_CALL_OUTCOME_UNSPECIFIED"
  | "TOOL_CALL_OUTCOME_SUCCEEDED"
  /** The tool raised; the result says what the model was told. */
  | "TOOL_CALL_OUTCOME_FAILED"
  /** A person denied the call. */
  | "TOOL_CALL_OUTCOME_DENIED"
  /** The worker died inside a tool that must not be repeated: nobody knows whether it took effect. */
  | "TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH";

/**
 * One event of a run's log.
 *
 * Sequences are dense from 1. An event is serialised once and has the same bytes live and replayed. A reader
 * that does not know a payload skips the event and still advances its cursor.
 *
 * Supersede rule: what is executed again after a crash, or after its provider failed, is told again. StepStarted of
 * a step that was begun before: readers discard the earlier events of that step. ToolCallStarted with an id that
 * the step has already: it replaces that call. RunStarted once more (the agent's code changed, and it is set to
 * restart): readers discard everything. TurnStarted once more for the same turn (the same reason): readers discard the
 * steps of that turn. runwire.client.fold does so for its users.
 */
export interface RunEvent {
  /** Position in the log, dense from 1. */
  sequence?: string;
  createTime?: string;
  /** The attempt that wrote the event, from 1. */
  attempt?: number;
  /** The step the event belongs to, from 1. 0: no step. */
  step?: number;
  /** The turn of a conversation that the event belongs to, from 1. 0: no conversation, or none of its turns. */
  turn?: number;
  runStarted?: RunStarted;
  stepStarted?: StepStarted;
  textDelta?: TextDelta;
  reasoningDelta?: ReasoningDelta;
  toolCallStarted?: ToolCallStarted;
  toolCallFinished?: ToolCallFinished;
  stepFinished?: StepFinished;
  runSuspended?: RunSuspended;
  runResumed?: RunResumed;
  custom?: CustomEvent;
  runFinished?: RunFinished;
  turnStarted?: TurnStarted;
  turnFinished?: TurnFinished;
  messageReceived?: MessageReceived;
  toolCallDelta?: ToolCallDelta;
  outputDelta?: OutputDelta;
  citationAdded?: CitationAdded;
  toolCallRetried?: ToolCallRetried;
}

/** First event of every run; once more when the run is restarted. */
export interface RunStarted {
  runId?: string;
  agentId?: string;
  input?: Json;
}

/** A step begins: a model request with the tools it calls, or a named step of a workflow. */
export interface StepStarted {
  /** `model` for a model request, else the name given to RunContext.step. */
  name?: string;
}

/** A piece of the text that the agent says. */
export interface TextDelta {
  text?: string;
}

/** A piece of the model's reasoning. */
export interface ReasoningDelta {
  text?: string;
}

/** A piece of the arguments of a tool call, while the model writes it. ToolCallStarted has them whole. */
export interface ToolCallDelta {
  /** As in the ToolCallStarted to come, which comes only if the call is made. */
  toolCallId?: string;
  toolName?: string;
  /** Of the text of a JSON object; the pieces of a call join to it. */
  arguments?: string;
}

/** A piece of the structured output, while the model writes it. RunFinished has it whole and checked. */
export interface OutputDelta {
  /**
   * Of the text of a JSON object; the pieces with one id join to it. A model that is asked again for an output that did
   * not fit writes it again, in another step.
   */
  text?: string;
  outputId?: string;
}

/** The model names a source of what it said in this step. */
export interface CitationAdded {
  /** Of a page. */
  url?: string;
  title?: string;
  /** Of anything else: its name or id, as the provider has it. */
  source?: string;
  /** The passage of the source, where the provider gives it. At most 2,000 characters. */
  quote?: string;
  /** Which characters of the step's text it is about: from the first to before the last. Both 0: not said. */
  start?: number;
  end?: number;
}

/** A tool is about to be executed. */
export interface ToolCallStarted {
  /** Identifies the call within its step. */
  toolCallId?: string;
  toolName?: string;
  arguments?: Json;
  /** Executed by the model's provider, such as a search of the web. */
  native?: boolean;
}

/** A tool raised, and is called again after a pause, with the same idempotency key. */
export interface ToolCallRetried {
  toolCallId?: string;
  toolName?: string;
  /** What it raised: reason `tool_error`, its words and class. */
  error?: RunError;
  /** How often it has raised so far, each counted once whatever process died meanwhile. */
  tries?: number;
  /** The pause. */
  delay?: string;
}

/** A tool ended. */
export interface ToolCallFinished {
  toolCallId?: string;
  toolName?: string;
  /** What the tool returned, as the model sees it. */
  result?: Json;
  outcome?: ToolCallOutcome;
  /** What the tool raised that was not tried again: reason `tool_error`. Without a result it ends the run. */
  error?: RunError;
}

/** A step is done and will not be executed again. */
export interface StepFinished {
  name?: string;
  /** What this step used. */
  usage?: Usage;
}

/** The run waits and holds no worker. */
export interface RunSuspended {
  pending?: PendingRequest[];
}

/** The run continues. */
export interface RunResumed {
  answers?: Answer[];
}

/** Answers one PendingRequest. */
export interface Answer {
  /** PendingRequest.request_id. */
  requestId?: string;
  /** PENDING_KIND_APPROVAL: execute the tool call. */
  approve?: Approve;
  /** PENDING_KIND_APPROVAL: do not execute the tool call. */
  deny?: Deny;
  /** PENDING_KIND_EXTERNAL_TOOL and PENDING_KIND_DATA: the result, or the data asked for. */
  data?: Json;
  /** Who answered: the subject of the token or certificate. Set by the service; what a request has here is ignored. */
  by?: string;
  /** What the person who decided says to the tool, which finds it in its context (pydantic-ai: `ctx.tool_call_metadata`). */
  metadata?: { [key: string]: Json };
}

/** Approves a tool call. */
export interface Approve {
  /** Arguments to use in place of the model's. Unset: as the model gave them. */
  overrideArguments?: { [key: string]: Json };
}

/** Denies a tool call. */
export interface Deny {
  /** What the model is told. Empty: that the call was denied. */
  message?: string;
}

/** An event of the agent author's own kind. */
export interface CustomEvent {
  type?: string;
  data?: { [key: string]: Json };
}

/** Last event of every run. */
export interface RunFinished {
  /** A terminal state. */
  state?: RunState;
  output?: Json;
  error?: RunError;
  /** What the whole run used. */
  usage?: Usage;
}

/** A turn of a conversation begins: a message is consumed, in the same atomic step. */
export interface TurnStarted {
  message?: Json;
  /** SendMessageResponse.message_number. */
  messageNumber?: string;
  mode?: MessageMode;
}

/**
 * A turn of a conversation is done; the conversation continues, also where the turn failed. Scorers are asked in the same
 * atomic step.
 */
export interface TurnFinished {
  /** RUN_STATE_SUCCEEDED, RUN_STATE_FAILED or RUN_STATE_CANCELLED. */
  state?: RunState;
  /** Of a cancelled turn: what was said until then. */
  output?: Json;
  error?: RunError;
  /** What the turn used. */
  usage?: Usage;
}

/** A message is consumed inside of a turn: it steers the agent from the step of this event on. */
export interface MessageReceived {
  message?: Json;
  /** SendMessageResponse.message_number. */
  messageNumber?: string;
  mode?: MessageMode;
}

/** A scorer that is carried out elsewhere. */
export interface ExternalScorer {
  /** At most 128 characters. None that a process of the service itself has. */
  scorerId?: string;
  version?: string;
  description?: string;
  /** Unset: higher is better. */
  direction?: ScoreDirection;
  /** JSON schema of the options that it takes. Shown to those who ask for scores; the scorer itself holds to it. */
  optionsSchema?: { [key: string]: Json };
  /**
   * Longest time of an attempt: an extension that comes later is refused, and the attempt has failed, `timeout`. 1 second
   * to 30 days. Unset: as for scorers of the service itself.
   */
  timeout?: string;
  /** How often an attempt that failed is repeated, 0 to 100. Unset: as for scorers of the service itself. */
  retries?: number;
}

export interface RegisterScorerRequest {
  scorer?: ExternalScorer;
}

export interface RegisterScorerResponse {
  scorer?: ExternalScorer;
}

export interface ClaimScorerRunsRequest {
  /**
   * Names the process that claims, and should be another after each start: 1 to 128 letters, digits, `.`, `_`, `:`, `@`
   * or `-`. A call under another identity is another worker.
   */
  worker?: string;
  /**
   * What it carries out: 1 to 100 registered scorers. It is given what asks for one of these versions, and what asks
   * for any.
   */
  scorers?: ScorerVersion[];
  /** At most this many, up to 100; 0 means 1. */
  maxScorerRuns?: number;
  /** How long to wait until there are some: up to 60 seconds. Unset: not at all. */
  wait?: string;
  /**
   * How long the worker may be silent: 1 second to 1 day. Unset: as long as a worker of the service, 30 seconds by
   * default.
   */
  lease?: string;
  /** How many scorer runs the worker has in hand already. */
  inHand?: number;
  /**
   * A sample that is larger comes by_reference, without its texts: read the run, or GetScorerRun. 0 means 1 MiB, which
   * clients of gRPC take as they are; at most 16 MiB. All samples of an answer have that much together, or there is but
   * one.
   */
  maxSampleBytes?: number;
}

/** A scorer in one version. */
export interface ScorerVersion {
  scorerId?: string;
  version?: string;
}

export interface ClaimScorerRunsResponse {
  scorerRuns?: ClaimedScorerRun[];
  /**
   * There is a scorer run whose workers died. It is given only to a worker that has nothing else in hand, and by itself:
   * so it can harm no other. Finish what you have, then claim with in_hand 0.
   */
  aloneWaiting?: boolean;
}

/** A scorer run in the hands of a worker. */
export interface ClaimedScorerRun {
  scorerRunId?: string;
  /** What a report must name. */
  claim?: number;
  scorerId?: string;
  /** Which of the versions that the worker named it is to be carried out with. */
  scorerVersion?: string;
  runId?: string;
  agentId?: string;
  sample?: Sample;
  options?: { [key: string]: Json };
  /** Results of steps that an earlier attempt of this version completed, by name: they need not be done again. */
  steps?: { [key: string]: Json };
  /** When the lease ends, by the clock of the database. */
  leaseEndTime?: string;
  /** After this moment the score is of no use. Unset: no limit. */
  deadline?: string;
  /** Trace context of the evaluated run. */
  trace?: Trace;
  /** How many attempts failed before this one. */
  failures?: number;
  /** Its workers died: take nothing beside it. */
  alone?: boolean;
}

export interface ReportScorerRunRequest {
  /** As it was claimed. */
  worker?: string;
  scorerRunId?: string;
  claim?: number;
  scorerVersion?: string;
  /**
   * It is scored. Score.direction is that of the scorer, whatever is said here. What is said of the score is cut where
   * it is too long, as with scorers of the service itself. A score that is not finite is INVALID_ARGUMENT, and leaves
   * the attempt as it was.
   */
  score?: Score;
  error?: AttemptError;
  notScorable?: AttemptNotScorable;
  extension?: AttemptExtension;
  release?: AttemptRelease;
  /**
   * Results of the steps completed so far, by name; kept until the scorer run has ended. Up to 256 KiB; more is not kept.
   * Unset: as they were.
   */
  steps?: { [key: string]: Json };
  /** What the attempt asked of a language model. Counted with the budgets and statistics of judges. */
  judging?: Judging;
}

/** The attempt failed. */
export interface AttemptError {
  message?: string;
  /** Name of the error's class or kind. */
  errorClass?: string;
  /** Machine-readable, lower snake case, up to 128 characters. Empty: `scorer_error`. */
  reason?: string;
  /** Another attempt would fail too: the scorer run is FAILED. */
  nonRetriable?: boolean;
  /**
   * What is needed cannot be had now, and makes sense again after this pause (up to 7 days): that is no failed attempt.
   * The scorer run is RETRYING, `rate_limited` unless a reason is given.
   */
  retryAfter?: string;
}

/** The sample cannot be scored, for a reason that no retry will change. */
export interface AttemptNotScorable {
  reason?: string;
}

/** The attempt continues: its lease is renewed. */
export interface AttemptExtension {
  /** From now on: as ClaimScorerRunsRequest.lease. */
  lease?: string;
}

/** The worker hands the scorer run back, as it shuts down. That is no failed attempt. */
export interface AttemptRelease {
}

export interface ReportScorerRunResponse {
  /** What the scorer run is now. */
  state?: ScorerRunState;
  /** When its lease ends, or it is tried again. */
  dueTime?: string;
}

/** Which way scores are better. */
export type ScoreDirection =
  | "SCORE_DIRECTION_UNSPECIFIED"
  | "SCORE_DIRECTION_HIGHER_IS_BETTER"
  | "SCORE_DIRECTION_LOWER_IS_BETTER";

/** State of a scorer run. SUCCEEDED, FAILED, NOT_SCORABLE, DECLINED and CANCELLED are terminal. */
export type ScorerRunState =
  | "SCORER_RUN_STATE_UNSPECIFIED"
  /** Waits for a worker. */
  | "SCORER_RUN_STATE_PENDING"
  | "SCORER_RUN_STATE_RUNNING"
  /** An attempt failed, or could not be made because what it needs is away; the next one is due at due_time. */
  | "SCORER_RUN_STATE_RETRYING"
  | "SCORER_RUN_STATE_SUCCEEDED"
  /** No more attempts. error says why; RetryScorerRuns tries again. */
  | "SCORER_RUN_STATE_FAILED"
  /** The scorer said that this run cannot be scored; error.message says why. */
  | "SCORER_RUN_STATE_NOT_SCORABLE"
  /** Sampled out; or there was no budget left: then error.reason is `budget`. */
  | "SCORER_RUN_STATE_DECLINED"
  | "SCORER_RUN_STATE_CANCELLED";

/** How urgent a scorer run is. */
export type ScorerRunPriority =
  | "SCORER_RUN_PRIORITY_UNSPECIFIED"
  /** Runs of production traffic. */
  | "SCORER_RUN_PRIORITY_NORMAL"
  /** Asked for by a person: RequestScorerRun. */
  | "SCORER_RUN_PRIORITY_HIGH";

/** A scorer that this service can run. */
export interface Scorer {
  scorerId?: string;
  /** Newest version. */
  version?: string;
  description?: string;
  direction?: ScoreDirection;
  /** Whether it asks a language model, and which. */
  judge?: boolean;
  judgeModel?: string;
  /** Version of the judge's prompt. */
  promptVersion?: string;
  /** Held by PauseScorer. */
  paused?: boolean;
  /**
   * Which processes of the service have it, in which versions. A scorer run waits, PENDING, for one that has the version
   * that it asks for, and ends FAILED, `scorer_unknown`, when none has had it for long (an hour by default).
   */
  holders?: ScorerHolder[];
  /** It is carried out elsewhere: RegisterScorer. */
  external?: boolean;
  /** External ones: JSON schema of the options. */
  optionsSchema?: { [key: string]: Json };
  /** Who paused it, where that was somebody of the caller's tenant. */
  pausedBy?: string;
}

/** A process that has a version of a scorer. */
export interface ScorerHolder {
  worker?: string;
  version?: string;
  /** When it last said so. */
  seenTime?: string;
}

/** One scoring of one run by one scorer. */
export interface ScorerRun {
  scorerRunId?: string;
  runId?: string;
  agentId?: string;
  scorerId?: string;
  /** The version that scored; before that the version asked for, empty for the newest. */
  scorerVersion?: string;
  state?: ScorerRunState;
  /** Set when the state is SCORER_RUN_STATE_SUCCEEDED. */
  score?: Score;
  /** Set when the state is FAILED, NOT_SCORABLE, CANCELLED or RETRYING; and where it is DECLINED for want of a budget. */
  error?: ScorerRunError;
  /** The newest attempts, oldest first: up to 100 from GetScorerRun, elsewhere up to 20. */
  attempts?: ScorerRunAttempt[];
  /** How often a worker took the work, those that died included. */
  deliveries?: number;
  createTime?: string;
  /** When the work may next be claimed. Unset in a terminal state. */
  dueTime?: string;
  endTime?: string;
  /** Trace context of the evaluated run. */
  trace?: Trace;
  sampling?: SamplingDecision;
  options?: { [key: string]: Json };
  /** Labels of the run. */
  labels?: { [key: string]: string };
  priority?: ScorerRunPriority;
  /** What the run's message said, where it was asked for. */
  sample?: Sample;
  /** How often it was redriven. */
  redrives?: number;
  /** ScorerRef.name: which use of the scorer this is. Empty: the one without a name. */
  scorerName?: string;
  /**
   * How often it could not be tried, because what it needs could not be had: a provider limits the rate or does not
   * answer, or the store does not. Since the last redrive; counts as no attempt. While it waits for that its state is
   * RETRYING, and error and due_time say what it waits for and when it is tried next.
   */
  waits?: number;
  /** How many attempts there were before those in `attempts`. */
  attemptsOmitted?: number;
  /** Names of fields that are left out, because what is stored of them is damaged and cannot be read. */
  omitted?: string[];
  /**
   * Who asked for it by RequestScorerRun, or for this version by RetryScorerRuns: a subject. Empty: its run did. It is
   * empty too where there is no authentication, as are the two below.
   */
  requestedBy?: string;
  /** Who redrove it last. */
  redrivenBy?: string;
  /** Who cancelled it; empty again once it is redriven. */
  cancelledBy?: string;
  /** Of what a person said: whose opinion it is. See SubmitScore. */
  author?: string;
  /** What they said, oldest first, the newest 100: the last one is the score. Only from GetScorerRun. */
  opinions?: Opinion[];
}

/** What a person said of a run, once. */
export interface Opinion {
  /** From 1. */
  number?: number;
  value?: number;
  label?: string;
  comment?: string;
  author?: string;
  /** Who called; empty where nobody has to say who they are. */
  submittedBy?: string;
  submitTime?: string;
}

/** What a scorer found. */
export interface Score {
  /** Always finite. */
  value?: number;
  label?: string;
  reason?: string;
  metadata?: { [key: string]: Json };
  direction?: ScoreDirection;
  /** Judges: what was asked and what it used. */
  judgement?: Judgement;
}

/** How a judge came to its score. */
export interface Judgement {
  model?: string;
  promptVersion?: string;
  inputTokens?: string;
  outputTokens?: string;
  /** In US dollars; unset when the price of the model is not known. */
  costUsd?: number;
}

/** Why there is no score. */
export interface ScorerRunError {
  /**
   * Machine-readable, lower snake case: `scorer_error`, `timeout`, `worker_lost`, `scorer_unknown`,
   * `sample_too_large`, `sample_lost`, `not_scorable`, `deadline_exceeded`, `cancelled`, `bad_score`,
   * `invalid_options`, `malformed_request`, `judge_refused`, `judge_not_configured`. In an attempt also `interrupted`:
   * its worker shut down and handed it back. While it is RETRYING also what is waited for, without an attempt:
   * `rate_limited`, `provider_unavailable` (both end it FAILED when that has lasted for too long, a day by default),
   * and `store_unavailable`: its sample could not be fetched.
   */
  reason?: string;
  errorClass?: string;
  message?: string;
}

/** One attempt to score. */
export interface ScorerRunAttempt {
  /** From 1, over all redrives. */
  attempt?: number;
  worker?: string;
  startTime?: string;
  endTime?: string;
  /** Unset when the attempt succeeded. */
  error?: ScorerRunError;
  /** Results of the pipeline steps that were complete when this attempt ended, by step name. Only from GetScorerRun. */
  partialResults?: { [key: string]: Json };
  /** What it asked a judge, and what that took; also of attempts that failed. Unset where no judge was asked. */
  judging?: Judging;
  /** There are partial_results, too large to be returned: those of the newest attempts are, up to 2 MiB in all. */
  partialResultsOmitted?: boolean;
}

/** What an attempt asked of a language model, and what that took. */
export interface Judging {
  model?: string;
  /** Requests made, those that brought no answer included. */
  requests?: string;
  inputTokens?: string;
  outputTokens?: string;
  /** In US dollars; unset when a price is not known. */
  costUsd?: number;
  /**
   * What was said, the first eight requests, cut to 65536 characters each. Only where the service keeps content, and
   * only from GetScorerRun.
   */
  exchanges?: JudgeExchange[];
}

/** One request to a language model. */
export interface JudgeExchange {
  prompt?: string;
  /** As the model gave it. */
  answer?: string;
}

/** W3C trace context of the evaluated run. */
export interface Trace {
  traceparent?: string;
  tracestate?: string;
}

/** Counts of one scorer over a window of time. */
export interface ScorerStats {
  scorerId?: string;
  /** Runs that matched the scorer's labels and states: all below but `cancelled` ad hoc requests. */
  eligible?: string;
  /** eligible less declined. */
  sampled?: string;
  scored?: string;
  failed?: string;
  notScorable?: string;
  declined?: string;
  cancelled?: string;
  /** Pending, running or retrying. */
  waiting?: string;
  /** scored / eligible; 0 when nothing was eligible. */
  coverage?: number;
  /**
   * How long the oldest waiting one has waited since it was created; retries that wait for their time, and what is held
   * by PauseScorer, count too. To scale by, see oldest_due_age.
   */
  oldestAge?: string;
  /** From creation to a score. At most one percent above the nearest rank. */
  latencyP50?: string;
  latencyP95?: string;
  latencyP99?: string;
  /** Mean of the scores. */
  meanScore?: number;
  /** Held by PauseScorer. */
  paused?: boolean;
  /** Count of every state. */
  counts?: StateCount[];
  /**
   * How long that has been due which has been due longest: what a worker could work on now. Unset where nothing is due,
   * so also where all that waits is a retry whose time has not come, or held by PauseScorer. Of all, whatever the window.
   */
  oldestDueAge?: string;
  /** Which use of the scorer is counted: ScorerRef.name. oldest_due_age and paused are those of the scorer as a whole. */
  scorerName?: string;
  /**
   * How a judge agrees with people: of the newest 10000 opinions of the window about this scorer_id, those on runs that
   * the judge scored too. How many they are,
   */
  comparedWithPeople?: string;
  /** the share in which both are at least 0.5, or both are below, */
  agreement?: number;
  /** and the mean distance between the two values. Set where there are some. */
  meanDistance?: number;
}

/** How many scorer runs are in a state. */
export interface StateCount {
  state?: ScorerRunState;
  count?: string;
}

/**
 * Asks the scorer service to score a run.
 *
 * The agent service writes one such message for every scorer of a run in the same atomic step as the run's last
 * event. Its bytes are the body of an entry of the message queue `scorer-requests`; docs/wire.md says where that
 * lies in each engine and how a consumer in any language takes part.
 */
export interface ScorerRunRequested {
  /**
   * Identifies the scorer run: the first 32 hex digits of
   * sha256(tenant + NUL + run_id + NUL + scorer_id + NUL + scorer_version), with the version as requested (empty
   * for `newest`), and for one that has a scorer_name also + NUL + scorer_name. Of a turn of a conversation, run_id is
   * followed by "#" and the number of the turn. A message that is delivered again carries the same id.
   */
  scorerRunId?: string;
  tenant?: string;
  scorerId?: string;
  /** Version wanted. Empty: the newest. */
  scorerVersion?: string;
  /** Settings for the scorer. */
  options?: { [key: string]: Json };
  sampling?: SamplingDecision;
  /** What is scored. */
  sample?: Sample;
  /** When the run ended and asked. */
  requestTime?: string;
  /** After this moment the score is of no use. Unset: no limit. */
  deadline?: string;
  /** W3C trace context of the run's span, which the score is attached to. */
  traceparent?: string;
  tracestate?: string;
  /**
   * How many scorer runs the run asks for in all, this one included: WatchScorerRuns waits for so many before it
   * says `ended`. 0: not known.
   */
  siblingCount?: number;
  /** ScorerRef.name: tells this use of the scorer from others. Empty: the one without a name. */
  scorerName?: string;
}

/** Whether a run was chosen to be scored. */
export interface SamplingDecision {
  /** The rate in force, 0 to 1. */
  rate?: number;
  /** Whether the run is scored. If not, the scorer run is recorded as DECLINED. */
  sampled?: boolean;
}

/** A run as scorers see it. */
export interface Sample {
  runId?: string;
  agentId?: string;
  agentVersion?: string;
  /** Lower-case name of the run's terminal state: `succeeded`, `failed` or `cancelled`. */
  runState?: string;
  input?: Json;
  output?: Json;
  /** Why the run failed, if it did. */
  errorReason?: string;
  errorMessage?: string;
  /** Tool calls in the order in which they began. */
  toolCalls?: SampleToolCall[];
  /** Steps in order, those that were executed again only once. */
  steps?: SampleStep[];
  usage?: SampleUsage;
  labels?: { [key: string]: string };
  startTime?: string;
  endTime?: string;
  /** What a right answer looks like, for scorers that compare. Unset for runs of production traffic. */
  groundTruth?: Json;
  /** Passages that the answer should rest on, for scorers that judge faithfulness. */
  context?: string[];
  /** Set when input, output and tool calls were left out because the sample was too large: fetch the run. */
  byReference?: boolean;
  /**
   * The turn of a conversation that this is a sample of, from 1: input is its message, output its result. 0: the sample
   * is of a whole run.
   */
  turn?: number;
  /** The turns of a whole conversation, in order. Its input is the first message, its output that of the last turn. */
  turns?: SampleTurn[];
}

/** One turn of a conversation. */
export interface SampleTurn {
  /** From 1. */
  turn?: number;
  message?: Json;
  output?: Json;
  /** Lower-case name of how it ended: `succeeded`, `failed` or `cancelled`. */
  state?: string;
  /** Why it failed, if it did. */
  errorReason?: string;
  /** Messages that came while it was under way and steered it. */
  steering?: Json[];
}

/** One tool call of a run. */
export interface SampleToolCall {
  toolCallId?: string;
  toolName?: string;
  arguments?: Json;
  result?: Json;
  /** Lower-case name of the outcome: `succeeded`, `failed`, `denied` or `unknown_after_crash`. */
  outcome?: string;
  /** Step in which the call was made, from 1. */
  step?: number;
}

/** One step of a run. */
export interface SampleStep {
  step?: number;
  name?: string;
  /** What the agent said in this step. */
  text?: string;
}

/** What a run used. */
export interface SampleUsage {
  requests?: string;
  inputTokens?: string;
  outputTokens?: string;
  toolCalls?: string;
}

/** A thumb. */
export type Thumb =
  | "THUMB_UNSPECIFIED"
  | "THUMB_UP"
  | "THUMB_DOWN";

/** Selects scorer runs. All conditions that are set must hold. */
export interface ScorerRunFilter {
  runId?: string;
  agentId?: string;
  scorerId?: string;
  /** Any of these; empty: any. */
  states?: ScorerRunState[];
  createdAfter?: string;
  createdBefore?: string;
  /** This use of a scorer: ScorerRef.name. Set and empty: the one without a name. Unset: any. */
  scorerName?: string;
  /** Ended for this reason: ScorerRunError.reason. */
  errorReason?: string;
}

export interface ListScorersRequest {
  /** At most this many; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  pageToken?: string;
}

export interface ListScorersResponse {
  /** In order of scorer_id. */
  scorers?: Scorer[];
  nextPageToken?: string;
}

export interface GetScorerRunRequest {
  scorerRunId?: string;
  /** Whether to return the sample too. */
  includeSample?: boolean;
}

export interface GetScorerRunResponse {
  scorerRun?: ScorerRun;
}

export interface ListScorerRunsRequest {
  filter?: ScorerRunFilter;
  /** At most this many; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  pageToken?: string;
}

export interface ListScorerRunsResponse {
  /** Newest first. */
  scorerRuns?: ScorerRun[];
  nextPageToken?: string;
}

export interface WatchScorerRunsRequest {
  /** The scorer runs of this run. An empty one is an error, unless all_runs is set. */
  runId?: string;
  /** After the frame that carried this cursor. Empty: begin with the present state of everything selected. */
  cursor?: string;
  /** 1 to 60 seconds. Unset: 10 seconds. */
  heartbeatInterval?: string;
  /** The scorer runs of all runs, without end. run_id must be empty then. */
  allRuns?: boolean;
}

/** One frame of a stream. */
export interface WatchScorerRunsResponse {
  cursor?: string;
  batch?: ScorerRunBatch;
  heartbeat?: ScorerRunHeartbeat;
  ended?: ScorerRunsEnded;
}

/** Scorer runs that changed. */
export interface ScorerRunBatch {
  scorerRuns?: ScorerRun[];
}

/** There is nothing new up to the cursor of this frame. */
export interface ScorerRunHeartbeat {
  sendTime?: string;
}

/** All scorer runs of the run are terminal; or the run has ended and asked for none. Status OK follows. */
export interface ScorerRunsEnded {
}

export interface RequestScorerRunRequest {
  scorerId?: string;
  /** Empty: the newest. */
  scorerVersion?: string;
  /** What to score, at most 1 MiB unless the service is set otherwise. sample.run_id may be empty. */
  sample?: Sample;
  /** At most 64 KiB. */
  options?: { [key: string]: Json };
  /** Makes the call safe to repeat. At most 128 characters. Empty: every call asks again. */
  requestId?: string;
  /** Which use of the scorer this is: see ScorerRef.name. */
  scorerName?: string;
}

export interface RequestScorerRunResponse {
  scorerRun?: ScorerRun;
}

export interface RetryScorerRunsRequest {
  /** By id; or by filter if empty. One of the two must be given. */
  scorerRunIds?: string[];
  filter?: ScorerRunFilter;
  /** Score again with this version, as new scorer runs. */
  scorerVersion?: string;
  /** Only count. */
  dryRun?: boolean;
  /**
   * Above 0: go through what the filter selects page by page, up to this many scorer runs in a call (above 1000 is
   * 1000); a call that has to look through many others first returns earlier, with fewer or none, and a token. The first
   * call touches none: it fixes the selection and returns its first token. What comes later, or is changed by anybody
   * later, by this very redrive too, is not selected, so that no scorer run is redriven twice. A page may be repeated
   * when its answer was lost: what it redrove is not redriven again. The process that carried it out gives the same
   * answer again; another one, or the same after a restart, counts only what was left to do, so that the sum over all
   * pages is then a lower bound.
   *
   * 0: do it all in this call, as far as its time allows, 20 seconds at most. If `next_page_token` is set in the answer,
   * there is more: continue with that token. Scorer runs named by id are always done in one call.
   */
  pageSize?: number;
  /** next_page_token of the page before. All other fields but page_size as there. */
  pageToken?: string;
}

export interface RetryScorerRunsResponse {
  /** How many were, or with dry_run would be, redriven by this call. */
  count?: string;
  /** The first 1000 of them. */
  scorerRunIds?: string[];
  /** Where to continue; empty when all are done. */
  nextPageToken?: string;
}

export interface CancelScorerRunsRequest {
  /** By id; or by filter if empty. One of the two must be given. */
  scorerRunIds?: string[];
  filter?: ScorerRunFilter;
  dryRun?: boolean;
  /**
   * As RetryScorerRunsRequest.page_size, but what is claimed, or changed in another way, after the selection was fixed is
   * cancelled all the same, unless it has ended.
   */
  pageSize?: number;
  pageToken?: string;
}

export interface CancelScorerRunsResponse {
  /** How many were, or with dry_run would be, cancelled by this call. */
  count?: string;
  /** The first 1000 of them. */
  scorerRunIds?: string[];
  /** Where to continue; empty when all are done. */
  nextPageToken?: string;
}

export interface PauseScorerRequest {
  scorerId?: string;
}

export interface PauseScorerResponse {
  scorer?: Scorer;
}

export interface ResumeScorerRequest {
  scorerId?: string;
}

export interface ResumeScorerResponse {
  scorer?: Scorer;
}

export interface GetScorerStatsRequest {
  /** Only this scorer. Empty: each scorer. */
  scorerId?: string;
  /** Only scorer runs created in this window. */
  createdAfter?: string;
  createdBefore?: string;
}

export interface GetScorerStatsResponse {
  stats?: ScorerStats[];
}

export interface ListScorerWorkersRequest {
  /** At most this many; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListScorerWorkersResponse {
  /** In order of `worker`. */
  workers?: ScorerWorker[];
  /** Empty: this was the last page. */
  nextPageToken?: string;
}

/** A process that does scorer runs. */
export interface ScorerWorker {
  /** Its name: host, process id, and a part that is another after each start. ScorerHolder.worker, and in its log. */
  worker?: string;
  /** In order of scorer_id and version. */
  scorers?: WorkerScorer[];
  /** When it last said so. */
  seenTime?: string;
}

/** A version of a scorer that a worker has. */
export interface WorkerScorer {
  scorerId?: string;
  version?: string;
}

export interface ListScorerQueuesRequest {
  /** At most this many; 0 means 50, above 1000 is 1000. */
  pageSize?: number;
  /** next_page_token of an earlier response to the same request. */
  pageToken?: string;
}

export interface ListScorerQueuesResponse {
  /** In order of scorer_id and scorer_version: what there is to be done. */
  queues?: ScorerQueue[];
  /** Empty: this was the last page. */
  nextPageToken?: string;
}

/** The scorer runs of a scorer that are to be done. */
export interface ScorerQueue {
  scorerId?: string;
  /** The version that they ask for; empty: any. */
  scorerVersion?: string;
  /** Scorer runs that are due and that no worker has, up to 10,000. */
  due?: string;
  /** Scorer runs whose time is to come, up to 10,000: those that are tried again later, and those that a worker has. */
  ahead?: string;
  /** How long the one that is due longest has been so; unset where none is due. */
  oldestDueAge?: string;
  /** Workers that have the scorer in this version. 0 while something is due: it waits for nobody. */
  workers?: number;
  /** The scorer is held by PauseScorer. */
  paused?: boolean;
}

export interface DeleteScorerRunsRequest {
  /** At least 1, at most 1000. */
  runIds?: string[];
  dryRun?: boolean;
}

export interface DeleteScorerRunsResponse {
  /** How many scorer runs were, or with dry_run would be, deleted by this call. */
  count?: string;
  /** There may be more: call again with the same request. */
  more?: boolean;
}

export interface SubmitScoreRequest {
  runId?: string;
  /**
   * What is scored: any name, up to 128 characters. That of a judge, to compare it with people: see
   * ScorerStats.agreement.
   */
  scorerId?: string;
  value?: number;
  thumb?: Thumb;
  label?: string;
  /** Why; kept up to 16384 characters. */
  comment?: string;
  /** Whose opinion it is, such as a user of the caller's own. Empty: the caller's. */
  author?: string;
  /** Makes the call safe to repeat. Empty: every call submits once more. */
  requestId?: string;
}

export interface SubmitScoreResponse {
  scorerRun?: ScorerRun;
}

/** What judges may spend. */
export interface ScorerBudget {
  /** The scorer; empty: all scorers of the tenant together. Both hold where there are both. */
  scorerId?: string;
  /** Windows follow each other from the Unix epoch on: an hour, a day ... 1 second to 366 days. */
  window?: string;
  /** Most tokens in a window, those of requests and answers together; unset: any number. */
  maxTokens?: string;
  /** Most US dollars in a window; unset: any sum. What has no known price costs nothing here. */
  maxCostUsd?: number;
  /** What was spent in the present window. */
  spentTokens?: string;
  spentCostUsd?: number;
}

export interface SetScorerBudgetRequest {
  /** Without max_tokens and max_cost_usd: there is no budget any more. */
  budget?: ScorerBudget;
}

export interface SetScorerBudgetResponse {
  budget?: ScorerBudget;
}

export interface ListScorerBudgetsRequest {
}

export interface ListScorerBudgetsResponse {
  /** In order of scorer_id; up to 1000. */
  budgets?: ScorerBudget[];
}
