import type { RunwireClient } from "./client.js";
import { RunwireError } from "./errors.js";
import { Fold, type RunView } from "./fold.js";
import type { Status } from "./watch.js";

/** What is shown of a run: its view, and how its stream goes. */
export interface Watched {
  view: RunView;
  status: Status;
  /** Why the stream is cut or failed. */
  error: RunwireError | undefined;
}

const EVERY_MS = 16;

/**
 * Follows one run for as long as somebody is subscribed, for frameworks with stores of their own
 * (`useSyncExternalStore`). Subscribers are told at most once every 16 ms, however fast the events come. A new first
 * subscriber continues where the last one left.
 */
export class RunStore {
  private readonly fold = new Fold();
  private readonly listeners = new Set<() => void>();
  private snapshot: Watched = { view: this.fold.view, status: "connecting", error: undefined };
  private status: Status = "connecting";
  private error: RunwireError | undefined;
  private cursor = "";
  private following: AbortController | undefined;
  private telling: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly client: RunwireClient,
    readonly runId: string,
  ) {}

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    if (!this.following && this.status !== "ended" && this.status !== "failed") void this.follow((this.following = new AbortController()));
    return () => {
      this.listeners.delete(listener);
      if (this.listeners.size) return;
      this.following?.abort();
      this.following = undefined;
    };
  };

  readonly getSnapshot = (): Watched => this.snapshot;

  private async follow(mine: AbortController): Promise<void> {
    const onStatus = (status: Status, why?: RunwireError) => {
      if (mine.signal.aborted) return;
      [this.status, this.error] = [status, why];
      this.tell();
    };
    const stream = this.client.watch(this.runId, { after: this.cursor, signal: mine.signal, onStatus });
    try {
      for await (const event of stream) {
        if (mine.signal.aborted) return;
        this.fold.add(event);
        this.cursor = stream.nextCursor;
        this.tell();
      }
    } catch (error) {
      if (mine.signal.aborted) return;
      this.status = "failed";
      this.error = error instanceof RunwireError ? error : new RunwireError("FAILED", String(error));
      this.tell();
    }
  }

  private tell(): void {
    this.telling ??= setTimeout(() => {
      this.telling = undefined;
      this.snapshot = { view: this.fold.view, status: this.status, error: this.error };
      for (const each of [...this.listeners]) each();
    }, EVERY_MS);
  }
}
