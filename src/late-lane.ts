import type { Services } from "./core/context.ts";
import type { RecordStore } from "./core/store.ts";
import type { PassthroughLane } from "./middleware/passthrough/lane.ts";
import { lanePaths } from "./middleware/passthrough/operations.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { CredentialSet } from "./pool/credential-set.ts";
import type { Pool } from "./pool/pool.ts";
import type { Transport } from "./upstream/transport.ts";

export interface LateLaneParts {
  readonly options: ResolvedOptions;
  readonly services: Services;
  readonly pool: Pool;
  readonly records: RecordStore;
  readonly credentials: CredentialSet;
  /** The model that a client's name stands for. */
  readonly resolve: (model: string) => string;
  readonly transport: Transport;
}

export interface LateLane {
  open(): Promise<PassthroughLane>;
  close(): Promise<void>;
}

/** What passes requests through unread: made with the first one, because most gateways never pass anything through. */
export function lateLane({ options, ...parts }: LateLaneParts): LateLane {
  const { passthrough, resilience, server } = options;
  let lane: Promise<PassthroughLane> | undefined;

  async function made(): Promise<PassthroughLane> {
    const { passthroughLane } = await import("./middleware/passthrough/lane.ts");
    return passthroughLane({
      ...parts,
      paths: lanePaths(passthrough?.paths ?? "default", false),
      bodyLimit: server.bodyLimitBytes,
      connectTimeoutMs: resilience.connectTimeoutMs,
      idleTimeoutMs: resilience.idleTimeoutMs,
      requestTimeoutMs: server.requestTimeoutMs,
    });
  }

  return {
    open: () => (lane ??= made()),
    close: async () => (await lane)?.close(),
  };
}
