import { unreachable, type Connection } from "./connection.js";
import { Delays, sleep } from "./delays.js";
import { errorOf, RunwireError } from "./errors.js";
import { Parser, type Message } from "./sse.js";
import type { Run, RunEvent, RunState } from "./types.js";

/** How a stream goes: `cut` until it is open again, and `ended` if and only if the run has. */
export type Status = "connecting" | "live" | "cut" | "ended" | "failed";

export interface WatchOptions {
  /** A cursor of this stream: only what comes after it. */
  after?: string;
  signal?: AbortSignal;
  /** Told whenever the status changes; at `cut` with the reason. */
  onStatus?: (status: Status, why?: RunwireError) => void;
}

const HEARTBEAT_SECONDS = 15;

/**
 * The events of one run: each once, in order, through every cut; `for await` ends if and only if the run has ended.
 *
 * It is read once. Where it cannot continue it throws a RunwireError: no such run, a cursor of another run or of another
 * log (CURSOR_...), events that are gone (EVENTS_LOST), a gateway that is away for too long (UNREACHABLE).
 */
export class RunStream implements AsyncIterable<RunEvent> {
  /** After the last event that was handled: the loop has asked for the next. Safe to store at any time. */
  cursor: string;
  /** After the last event that was given out. */
  nextCursor: string;
  /** The run's final state, once it has ended. */
  state: RunState | undefined;
  status: Status = "connecting";
  private lastSequence: number;
  private readonly delays: Delays;

  constructor(
    private readonly connection: Connection,
    readonly runId: string,
    private readonly options: WatchOptions = {},
  ) {
    this.cursor = this.nextCursor = options.after ?? "";
    this.lastSequence = Number(/\.(\d+)$/.exec(this.cursor)?.[1] ?? 0);
    this.delays = new Delays(connection.policy);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RunEvent, void, undefined> {
    const { signal } = this.options;
    while (this.state === undefined) {
      let problem = unreachable("the stream was cut");
      try {
        yield* this.once();
        if (this.state !== undefined) return this.become("ended");
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof RunwireError) || !error.passing) {
          this.become("failed");
          throw error;
        }
        problem = error;
      }
      this.become("cut", problem);
      const seconds = this.delays.next(problem.retryAfterSeconds);
      if (seconds === undefined) {
        this.become("failed");
        throw problem;
      }
      await sleep(seconds, signal);
    }
  }

  /** The events of one connection. Returns at its end, which is that of the run only if `state` is set. */
  private async *once(): AsyncGenerator<RunEvent, void, undefined> {
    const path = `/v1/runs/${encodeURIComponent(this.runId)}`;
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (this.cursor) headers["Last-Event-ID"] = this.cursor;
    const silence = new Silence(this.options.signal);
    try {
      silence.within(this.connection.policy.missedHeartbeats * HEARTBEAT_SECONDS);
      const answer = await silence.orAbort(this.connection.open(`${path}/events`, { headers, signal: silence.signal }));
      if (answer.status === 204) {
        // This reader has had the end. What it was, the run says.
        this.state = (await this.connection.call<Run>("GET", path, undefined, true, this.options.signal)).state ?? "RUN_STATE_UNSPECIFIED";
        return;
      }
      this.become("live");
      const told = Number(answer.headers.get("runwire-heartbeat-seconds")) || HEARTBEAT_SECONDS;
      yield* this.read(answer, silence, told * this.connection.policy.missedHeartbeats);
    } finally {
      silence.stop();
    }
  }

  private async *read(answer: Response, silence: Silence, seconds: number): AsyncGenerator<RunEvent, void, undefined> {
    const parser = new Parser(this.cursor);
    const reader = answer.body!.getReader();
    try {
      for (;;) {
        silence.within(seconds);
        const piece = await silence.orAbort(reader.read()).catch((error: unknown) => {
          this.options.signal?.throwIfAborted();
          throw silence.signal.aborted ? silence.signal.reason : unreachable(error);
        });
        silence.pause(); // a handler may take its time
        if (piece.done) return;
        this.delays.heard();
        for (const message of parser.take(piece.value)) {
          const event = this.take(message);
          if (this.state !== undefined) return;
          if (!event) continue;
          this.delays.progressed();
          this.lastSequence = Number(event.sequence);
          this.nextCursor = message.id;
          yield event;
          this.cursor = this.nextCursor;
        }
      }
    } finally {
      void reader.cancel().catch(() => undefined); // it may be broken already
    }
  }

  /** The event that a message brings, if it is a new one. */
  private take(message: Message): RunEvent | undefined {
    if (message.event === "problem") throw errorOf(500, message.data);
    if (message.event === "end") {
      this.cursor = this.nextCursor = message.id;
      this.state = parse<{ state: RunState }>(message.data).state;
    }
    if (message.event !== "message") return undefined; // of a newer gateway
    const event = parse<RunEvent>(message.data);
    const sequence = Number(event.sequence);
    if (this.lastSequence && sequence <= this.lastSequence) return undefined;
    if (this.lastSequence && sequence > this.lastSequence + 1) {
      throw new RunwireError("EVENTS_LOST", `event ${sequence} follows event ${this.lastSequence}`);
    }
    return event;
  }

  private become(status: Status, why?: RunwireError): void {
    if (status === this.status) return;
    this.status = status;
    this.options.onStatus?.(status, why);
  }
}

/** Aborts what is waited for when nothing comes for too long, or when the caller's signal says so. */
class Silence {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private fail: ((reason: unknown) => void) | undefined;
  private readonly abort = (why: unknown = this.outer?.reason) => {
    this.controller.abort(why);
    this.fail?.(this.controller.signal.reason);
  };

  private readonly stopped = () => this.abort();

  constructor(private readonly outer?: AbortSignal) {
    if (outer?.aborted) this.abort();
    else outer?.addEventListener("abort", this.stopped, { once: true });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  within(seconds: number): void {
    clearTimeout(this.timer);
    // A reason that passes: the stream is opened again, whatever it was that said nothing.
    this.timer = setTimeout(() => this.abort(unreachable(`nothing came for ${seconds} s`)), seconds * 1000);
  }

  /** What `promise` brings, or a rejection at the abort. Node's fetch forgets its signal once its request is collected. */
  orAbort<Kind>(promise: Promise<Kind>): Promise<Kind> {
    return new Promise((resolve, reject) => {
      this.fail = reject;
      promise.then(resolve, reject);
      if (this.signal.aborted) reject(this.signal.reason); // while a handler had an event in hand
    });
  }

  pause(): void {
    clearTimeout(this.timer);
  }

  /** Ends the request too: an iteration that was left early keeps no connection. */
  stop(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.stopped);
    this.abort();
  }
}

function parse<Kind>(data: string): Kind {
  try {
    return JSON.parse(data) as Kind;
  } catch (error) {
    throw new RunwireError("FRAME_UNREADABLE", `a message is no JSON: ${String(error)}`);
  }
}
