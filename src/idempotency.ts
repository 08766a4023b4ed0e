/** Idempotency keys, kept in the guard's store. */
import { randomBytes } from "node:crypto";
import type { Services } from "./core/context.ts";
import { noStep, type Step } from "./core/step.ts";
import type { Logger } from "./core/logger.ts";
import type { Secret } from "./core/secret.ts";
import type { RecordStore, Store } from "./core/store.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { Holds } from "./limits/holds.ts";
import { servedBefore } from "./middleware/budgets/one-charge.ts";
import { idempotencyStep } from "./middleware/idempotency.ts";
import { claims } from "./middleware/idempotency/claims.ts";
import { shelf } from "./middleware/idempotency/shelf.ts";
import type { ResolvedOptions } from "./options/resolved.ts";

/** What the memory store keeps of them: a fifth of its records, and as much as a small process can spare. */
const MAX_KEYS_IN_MEMORY = 20_000;
const MAX_BYTES_IN_MEMORY = 64 * 1024 * 1024;

export interface Idempotency {
  readonly step: Step;
  close(): Promise<void>;
}

export async function idempotencyOf(
  { idempotency, secrets }: ResolvedOptions,
  { clock, logger }: Pick<Services, "clock" | "logger">,
  store: Store,
  holds: Holds,
  metrics: Metrics | null,
): Promise<Idempotency> {
  if (!idempotency) return { step: noStep, close: async () => {} };
  // A combination is named after both of its stores; the records are of the first.
  const isInMemory = store.name.split("+")[0] === "memory";
  const records = isInMemory
    ? shelf({ records: store.records, clock, maxKeys: MAX_KEYS_IN_MEMORY, maxBytes: MAX_BYTES_IN_MEMORY })
    : // A key of our own would lie beside the file that it is to protect; where several nodes share a server one is always given.
      secrets.key
      ? await sealed(store.records, secrets.key, logger)
      : store.records;
  const owner = randomBytes(12).toString("base64url");
  const table = claims({ records, clock, logger, ttlMs: idempotency.ttlMs, owner });
  return {
    step: idempotencyStep({
      claims: table,
      clock,
      maxBodyBytes: idempotency.maxBodyBytes,
      counted: (outcome) => metrics?.idempotency(outcome),
      servedBefore: (ctx) => servedBefore(ctx, holds),
    }),
    close: table.close,
  };
}

/** Loaded only where something is encrypted. */
async function sealed(records: RecordStore, key: Secret, logger: Logger): Promise<RecordStore> {
  const [{ secretBox }, { sealing }] = await Promise.all([import("./core/secret-box.ts"), import("./middleware/idempotency/sealing.ts")]);
  return sealing(records, secretBox(key, "idempotency"), logger);
}
