/** What a service, or this client, refused: the members of a problem document (RFC 9457). */
export class RunwireError extends Error {
  constructor(
    /** As `google.rpc.ErrorInfo.reason`, such as RUN_NOT_FOUND; of this client: EVENTS_LOST, FRAME_UNREADABLE, UNREACHABLE. */
    readonly reason: string,
    message: string,
    /** Of HTTP; 0 where there was no answer. */
    readonly status = 0,
    /** What is wrong with which field. */
    readonly violations: readonly { field: string; description: string }[] = [],
    /** How long the service asks to wait. */
    readonly retryAfterSeconds = 0,
    readonly metadata: { readonly [key: string]: string } = {},
  ) {
    super(message);
    this.name = "RunwireError";
  }

  /** Whether the same may work later: the service was not there, or had too much to do. */
  get passing(): boolean {
    return this.status === 0 ? this.reason === "UNREACHABLE" : this.status === 429 || (this.status >= 500 && this.status !== 501 && this.reason !== "FRAME_UNREADABLE");
  }
}

/** The error that a problem document, or whatever a proxy sent in its place, stands for. */
export function errorOf(status: number, body: string, retryAfter: string | null = null): RunwireError {
  let problem: Record<string, any> = {};
  try {
    const read = JSON.parse(body);
    if (read && typeof read === "object") problem = read;
  } catch {
    // No problem document: the status has to do.
  }
  const seconds = Number(problem["retryAfterSeconds"] ?? retryAfter);
  return new RunwireError(
    String(problem["reason"] ?? `HTTP_${status}`),
    String(problem["detail"] ?? problem["title"] ?? `the gateway answered ${status}`),
    Number(problem["status"] ?? status),
    Array.isArray(problem["violations"]) ? problem["violations"] : [],
    Number.isFinite(seconds) && seconds > 0 ? seconds : 0,
    problem["metadata"] ?? {},
  );
}
