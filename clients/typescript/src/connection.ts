import { DEFAULTS, Delays, sleep, type ResumePolicy } from "./delays.js";
import { errorOf, RunwireError } from "./errors.js";

/** A token, or what gets one: asked before every connection, so that one that expires can be renewed. */
export type Token = string | (() => string | Promise<string>);

export interface Options {
  /** Where the gateway is, such as `https://runs.example.org`; empty in a page that the gateway's host serves. */
  url?: string;
  token?: Token;
  resume?: ResumePolicy;
  /** Time that one call has, repetitions included. */
  timeoutSeconds?: number;
  /** In place of the global one. */
  fetch?: typeof fetch;
}

/** HTTP as the gateway speaks it: where it is, who calls, when a call is made again. */
export class Connection {
  readonly policy: Required<ResumePolicy>;
  private readonly base: string;
  private readonly fetch: typeof fetch;

  constructor(private readonly options: Options) {
    this.policy = { ...DEFAULTS, ...options.resume };
    this.base = (options.url ?? "").replace(/\/+$/, "");
    this.fetch = options.fetch ?? ((input, init) => fetch(input, init));
  }

  /** One request. An answer that is no success, and none at all, is a RunwireError. */
  async open(path: string, init: RequestInit & { headers: Record<string, string> }): Promise<Response> {
    const { token } = this.options;
    const given = typeof token === "function" ? await token() : token;
    const headers = given ? { ...init.headers, Authorization: `Bearer ${given}` } : init.headers;
    let answer: Response;
    try {
      answer = await this.fetch(this.base + path, { ...init, headers, cache: "no-store", redirect: "error" });
    } catch (error) {
      init.signal?.throwIfAborted();
      throw unreachable(error);
    }
    if (answer.ok) return answer;
    throw errorOf(answer.status, await answer.text().catch(() => ""), answer.headers.get("retry-after"));
  }

  /** A call whose answer is JSON. One that may be repeated is, while the gateway is away and there is time. */
  async call<Answer>(method: "GET" | "POST", path: string, body: object | undefined, repeat: boolean, signal?: AbortSignal): Promise<Answer> {
    const timeout = AbortSignal.timeout((this.options.timeoutSeconds ?? 30) * 1000);
    const stop = signal ? AbortSignal.any([signal, timeout]) : timeout;
    const delays = new Delays(this.policy);
    let last: unknown;
    for (;;) {
      try {
        const headers: Record<string, string> = { Accept: "application/json" };
        if (body) headers["Content-Type"] = "application/json";
        const answer = await this.open(path, { method, headers, signal: stop, ...(body && { body: JSON.stringify(body) }) });
        return (await read(answer, stop)) as Answer;
      } catch (error) {
        signal?.throwIfAborted();
        if (timeout.aborted) throw last ?? unreachable(error);
        if (!repeat || !(error instanceof RunwireError) || !error.passing) throw error;
        last = error;
        const seconds = delays.next(error.retryAfterSeconds);
        if (seconds === undefined) throw error;
        await sleep(seconds, stop).catch(() => {
          signal?.throwIfAborted();
          throw last;
        });
      }
    }
  }
}

/** The body of an answer; one that was cut off is no answer. */
async function read(answer: Response, signal: AbortSignal): Promise<unknown> {
  try {
    return await answer.json();
  } catch (error) {
    signal.throwIfAborted();
    throw unreachable(error);
  }
}

/** An error for a gateway that did not answer. */
export function unreachable(error: unknown): RunwireError {
  const why = error instanceof Error ? error.message : String(error);
  return new RunwireError("UNREACHABLE", `the gateway did not answer: ${why}`);
}
