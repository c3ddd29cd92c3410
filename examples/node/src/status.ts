// google.rpc.Status, as far as it says why a stream was refused and when to come back.
import type { ServiceError } from "@grpc/grpc-js";
import protobuf from "protobufjs";

const { root } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }`, { keepCase: true });

interface Any { type_url: string; value: Uint8Array }
interface Details { reason: string; retryMs: number }

export function details(error: ServiceError): Details {
  const found: Details = { reason: "", retryMs: 0 };
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!(packed instanceof Buffer)) return found;
  const status = root.lookupType("Status").decode(packed) as unknown as { details: Any[] };
  for (const { type_url, value } of status.details) {
    const name = type_url.split(".").pop() as string;
    if (name === "ErrorInfo") found.reason = (root.lookupType(name).decode(value) as unknown as { reason: string }).reason;
    if (name === "RetryInfo") {
      const { retry_delay } = root.lookupType(name).toObject(root.lookupType(name).decode(value), { longs: Number });
      found.retryMs = (retry_delay?.seconds ?? 0) * 1000 + (retry_delay?.nanos ?? 0) / 1e6;
    }
  }
  return found;
}
