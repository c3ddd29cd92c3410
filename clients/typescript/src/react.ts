import { useMemo, useSyncExternalStore } from "react";
import type { RunwireClient } from "./client.js";
import { RunStore, type Watched } from "./store.js";

/**
 * A run, live: renders again as its events come, through every cut, until it has ended.
 *
 *     const { view, status } = useRun(client, runId);
 *
 * Keep the client outside of the component, or in `useMemo`: another client, or another run, starts over.
 */
export function useRun(client: RunwireClient, runId: string): Watched {
  const store = useMemo(() => new RunStore(client, runId), [client, runId]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot);
}
