/** When what failed is tried again. */
export interface ResumePolicy {
  /** Bound of the first delay, in seconds. Each delay is drawn evenly from 0 to its bound (full jitter). */
  firstDelaySeconds?: number;
  /** By how much the bound grows at each failure in a row. Only something new sets it back. */
  growth?: number;
  maxDelaySeconds?: number;
  /** A stream that is silent for so many heartbeats is taken for dead. */
  missedHeartbeats?: number;
  /** The error is thrown when nothing new was read for this long after a failure. Infinity: never. */
  giveUpSeconds?: number;
}

export const DEFAULTS: Required<ResumePolicy> = {
  firstDelaySeconds: 0.1,
  growth: 1.6,
  maxDelaySeconds: 10,
  missedHeartbeats: 2.5,
  giveUpSeconds: 600,
};

/** The delays of one stream or call. */
export class Delays {
  private failures = 0;
  private failingSince: number | undefined;

  constructor(private readonly policy: Required<ResumePolicy>) {}

  /** Something new came: the next delay is a short one. */
  progressed(): void {
    this.failures = 0;
    this.failingSince = undefined;
  }

  /** The service works: the time to give up starts over at the next failure. */
  heard(): void {
    this.failingSince = undefined;
  }

  /** Seconds to wait now, at least `atLeast`; undefined: give up. */
  next(atLeast: number): number | undefined {
    const now = performance.now() / 1000;
    this.failingSince ??= now;
    if (now - this.failingSince >= this.policy.giveUpSeconds) return undefined;
    const { firstDelaySeconds, growth, maxDelaySeconds } = this.policy;
    const bound = Math.min(firstDelaySeconds * growth ** this.failures, maxDelaySeconds);
    this.failures += 1;
    return atLeast + Math.random() * bound;
  }
}

/** Waits; rejects with the signal's reason once it is aborted. */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
