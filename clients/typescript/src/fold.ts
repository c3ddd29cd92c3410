import type { Json, PendingRequest, RunError, RunEvent, RunState, ToolCallOutcome, Usage } from "./types.js";

/** Counts of a Usage, as numbers. */
export interface Counts {
  requests: number;
  inputTokens: number;
  outputTokens: number;
  toolCalls: number;
}

/** A tool call, as far as it got. */
export interface ToolCall {
  toolCallId: string;
  toolName: string;
  arguments: Json;
  result: Json;
  /** TOOL_CALL_OUTCOME_UNSPECIFIED while the tool is being executed. */
  outcome: ToolCallOutcome;
}

/** An event of the agent author's own kind. */
export interface Custom {
  type: string;
  data: { [key: string]: Json };
}

/** One step of a run in its latest attempt. Step 0 holds what belongs to no step. */
export interface Step {
  step: number;
  /** The attempt whose events are shown; those of lower ones were discarded. */
  attempt: number;
  /** Of a conversation; 0: none. */
  turn: number;
  name: string;
  text: string;
  reasoning: string;
  toolCalls: ToolCall[];
  custom: Custom[];
  finished: boolean;
  usage: Counts;
}

/** One turn of a conversation: a message, and what the agent did with it. */
export interface Turn {
  turn: number;
  message: Json;
  messageNumber: number;
  state: RunState;
  output: Json;
  error: RunError | null;
  usage: Counts;
  /** What has steered it. */
  received: { messageNumber: number; message: Json }[];
  /** Numbers of its steps, which are in RunView.steps. */
  steps: number[];
}

/** What a run looks like after the events so far. */
export interface RunView {
  runId: string;
  agentId: string;
  /** RUN_STATE_UNSPECIFIED before the first event. */
  state: RunState;
  ended: boolean;
  input: Json;
  output: Json;
  error: RunError | null;
  attempt: number;
  /** In order of their numbers. */
  steps: Step[];
  /** Of a conversation, in order of their numbers. */
  turns: Turn[];
  /** What a suspended run waits for. */
  pending: PendingRequest[];
  /** Of the steps that are finished; of the whole run once it has ended. */
  usage: Counts;
  lastSequence: number;
  /** Of the first event that was added; 0 before. */
  firstSequence: number;
  /** Whether the events began in the middle of the run: what came before is not in the view. */
  partial: boolean;
}

type Exact = Record<keyof Counts, bigint>;
const NAMES = ["requests", "inputTokens", "outputTokens", "toolCalls"] as const;
const MOST = 2n ** 63n - 1n;
const ENDED: readonly RunState[] = ["RUN_STATE_SUCCEEDED", "RUN_STATE_FAILED", "RUN_STATE_CANCELLED"];
const NONE: Usage = {};

/**
 * Keeps a RunView up to date, one event at a time; as `runwire.fold` in Python does, but for what tools and
 * outputs say while they grow, citations and tries of tools, of which it keeps only the end.
 *
 * Obeys the supersede rule: a step that begins again starts empty, and so do a turn and a run. An event at or below the
 * last sequence changes nothing. What an event costs does not depend on how many there were.
 */
export class Fold {
  private head: Omit<RunView, "steps" | "turns"> = {
    runId: "", agentId: "", state: "RUN_STATE_UNSPECIFIED", ended: false, input: null, output: null, error: null,
    attempt: 0, pending: [], usage: counts(NONE), lastSequence: 0, firstSequence: 0, partial: false,
  };
  private steps = new Map<number, Step>();
  private turns = new Map<number, Turn>();
  /** Exact usage of each finished step, and its sum. */
  private used = new WeakMap<Step, Exact>();
  private sum: Exact = exact(NONE);
  /** Places of tool calls in their steps, by id. */
  private places = new WeakMap<Step, Map<string, number>>();
  private shown: RunView | undefined;
  private changed = new Set<Step | Turn>();

  /** The view now. It does not change any more: later views share with it what is the same. */
  get view(): RunView {
    if (!this.shown) {
      // What changed from here on is changed in a copy, so that this view stays what it is.
      this.shown = { ...this.head, steps: ordered(this.steps), turns: ordered(this.turns) };
      this.changed.clear();
    }
    return this.shown;
  }

  /** All text of the run so far, in order of steps. */
  get text(): string {
    return textOf(this.view);
  }

  /** Takes the next event. */
  add(event: RunEvent): this {
    const { head } = this;
    const sequence = Number(event.sequence ?? 0);
    if (sequence <= head.lastSequence) return this;
    this.shown = undefined;
    if (!head.firstSequence) [head.firstSequence, head.partial] = [sequence, sequence > 1];
    head.lastSequence = sequence;
    head.attempt = Math.max(head.attempt, event.attempt ?? 0);
    if (event.turnStarted || event.turnFinished || event.messageReceived) this.addToTurn(event);
    else if (event.runStarted || event.runSuspended || event.runResumed || event.runFinished) this.addToRun(event);
    else if (event.stepStarted || event.textDelta || event.reasoningDelta || event.toolCallStarted || event.toolCallFinished || event.stepFinished || event.custom) this.addToStep(event);
    head.ended = ENDED.includes(head.state);
    return this;
  }

  private addToRun({ runStarted, runSuspended, runFinished }: RunEvent): void {
    const { head } = this;
    head.pending = [];
    if (runStarted) {
      const { runId = "", agentId = "", input = null } = runStarted;
      Object.assign(head, { runId, agentId, input, state: "RUN_STATE_RUNNING", partial: false, usage: counts(NONE) });
      for (const each of [this.steps, this.turns]) each.clear();
      this.sum = exact(NONE);
    } else if (runSuspended) {
      head.state = "RUN_STATE_SUSPENDED";
      head.pending = runSuspended.pending ?? [];
    } else if (runFinished) {
      const { state = "RUN_STATE_UNSPECIFIED", output = null, error = null, usage = NONE } = runFinished;
      Object.assign(head, { state, output, error, usage: counts(usage) });
    } else {
      head.state = "RUN_STATE_RUNNING";
    }
  }

  private addToTurn({ turn: number = 0, turnStarted, turnFinished, messageReceived }: RunEvent): void {
    const { head } = this;
    const turn = this.turn(number);
    if (turnStarted) {
      for (const each of turn.steps) this.drop(each); // begun again
      const { message = null, messageNumber } = turnStarted;
      Object.assign(turn, { message, messageNumber: Number(messageNumber ?? 0), state: "RUN_STATE_RUNNING", output: null, error: null, steps: [], received: [] });
      [head.state, head.pending] = ["RUN_STATE_RUNNING", []];
    } else if (turnFinished) {
      const { state = "RUN_STATE_UNSPECIFIED", output = null, error = null, usage = NONE } = turnFinished;
      Object.assign(turn, { state, output, error, usage: counts(usage) });
      [head.state, head.pending] = ["RUN_STATE_WAITING", []];
    } else if (messageReceived) {
      const { message = null, messageNumber } = messageReceived;
      turn.received = [...turn.received, { messageNumber: Number(messageNumber ?? 0), message }];
    }
  }

  private addToStep(event: RunEvent): void {
    const { head } = this;
    if (head.state === "RUN_STATE_UNSPECIFIED") head.state = "RUN_STATE_RUNNING";
    const number = event.step ?? 0;
    if (!this.steps.has(number) || event.stepStarted) this.begin(event, number);
    const step = this.writable(this.steps, number)!;
    if ((event.attempt ?? 0) < step.attempt && number > 0) return;
    if (event.stepStarted) [step.name, step.attempt] = [event.stepStarted.name ?? "", event.attempt ?? 0];
    else if (event.textDelta) step.text += event.textDelta.text ?? "";
    else if (event.reasoningDelta) step.reasoning += event.reasoningDelta.text ?? "";
    else if (event.custom) step.custom.push({ type: event.custom.type ?? "", data: event.custom.data ?? {} });
    else if (event.stepFinished) this.finish(step, event.stepFinished.usage ?? NONE);
    else this.addToolCall(step, event);
  }

  private begin({ attempt = 0, turn = 0 }: RunEvent, number: number): void {
    const before = this.steps.get(number);
    if (before) this.count(before, NONE);
    // One that began before keeps its place in its turn.
    const step = { step: number, attempt, turn, name: "", text: "", reasoning: "", toolCalls: [], custom: [], finished: false, usage: counts(NONE) };
    this.steps.set(number, step);
    this.changed.add(step);
    if (!turn) return;
    const its = this.turn(turn);
    if (!its.steps.includes(number)) its.steps = [...its.steps, number];
  }

  private finish(step: Step, usage: Usage): void {
    this.count(step, usage);
    step.finished = true;
    step.usage = counts(usage);
    this.head.usage = counts(this.sum);
  }

  private addToolCall(step: Step, { toolCallStarted, toolCallFinished }: RunEvent): void {
    const { toolCallId = "", toolName = "" } = (toolCallStarted ?? toolCallFinished)!;
    const places = this.places.get(step) ?? new Map<string, number>();
    this.places.set(step, places);
    const place = places.get(toolCallId) ?? step.toolCalls.length;
    places.set(toolCallId, place);
    const before = step.toolCalls[place];
    const outcome: ToolCallOutcome = "TOOL_CALL_OUTCOME_UNSPECIFIED";
    // A tool that is executed again after a crash begins again under the same id, and takes the place it had.
    if (toolCallStarted) step.toolCalls[place] = { toolCallId, toolName, arguments: toolCallStarted.arguments ?? null, result: null, outcome };
    else step.toolCalls[place] = { ...(before ?? { toolCallId, toolName, arguments: null }), result: toolCallFinished!.result ?? null, outcome: toolCallFinished!.outcome ?? outcome };
  }

  private turn(number: number): Turn {
    const known = this.writable(this.turns, number);
    if (known) return known;
    const turn: Turn = { turn: number, message: null, messageNumber: 0, state: "RUN_STATE_RUNNING", output: null, error: null, usage: counts(NONE), received: [], steps: [] };
    this.turns.set(number, turn);
    this.changed.add(turn);
    return turn;
  }

  /** The step or turn, as a copy where a view that was given out holds it. */
  private writable<Kind extends Step | Turn>(all: Map<number, Kind>, number: number): Kind | undefined {
    const known = all.get(number);
    if (!known || this.changed.has(known)) return known;
    const copy = { ...known };
    if ("toolCalls" in copy) [copy.toolCalls, copy.custom] = [[...copy.toolCalls], [...copy.custom]];
    all.set(number, copy);
    this.changed.add(copy);
    for (const kept of [this.used, this.places] as WeakMap<object, unknown>[]) {
      if (kept.has(known)) kept.set(copy, kept.get(known));
    }
    return copy;
  }

  private drop(number: number): void {
    const step = this.steps.get(number);
    if (!step) return;
    this.count(step, NONE);
    this.steps.delete(number);
  }

  private count(step: Step, usage: Usage): void {
    const before = this.used.get(step);
    const now = exact(usage);
    for (const name of NAMES) this.sum[name] += now[name] - (before?.[name] ?? 0n);
    this.used.set(step, now);
  }
}

/** The view after all of `events`, which ascend. */
export function fold(events: Iterable<RunEvent>): RunView {
  const folded = new Fold();
  for (const event of events) folded.add(event);
  return folded.view;
}

/** What the agent said, in order of steps; with a turn's number, in this turn. */
export function textOf(view: RunView, turn?: number): string {
  return view.steps.filter((each) => turn === undefined || each.turn === turn).map((each) => each.text).join("");
}

/** All tool calls, in order of steps. */
export function toolCallsOf(view: RunView): ToolCall[] {
  return view.steps.flatMap((each) => each.toolCalls);
}

function ordered<Kind>(all: Map<number, Kind>): Kind[] {
  return [...all].sort(([one], [other]) => one - other).map(([, each]) => each);
}

function exact(usage: Usage): Exact {
  const { requests = 0, inputTokens = 0, outputTokens = 0, toolCalls = 0 } = usage;
  return { requests: BigInt(requests), inputTokens: BigInt(inputTokens), outputTokens: BigInt(outputTokens), toolCalls: BigInt(toolCalls) };
}

function counts(usage: Usage | Exact): Counts {
  const of = (value: string | bigint | undefined) => {
    const count = BigInt(value ?? 0);
    return Number(count > MOST ? MOST : count);
  };
  return { requests: of(usage.requests), inputTokens: of(usage.inputTokens), outputTokens: of(usage.outputTokens), toolCalls: of(usage.toolCalls) };
}
