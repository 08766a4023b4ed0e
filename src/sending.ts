/** How the attempts of one guard are made. */
import type { Call } from "./core/call.ts";
import { idFactory } from "./core/id.ts";
import type { Clock } from "./core/time.ts";
import { codecOf, dialect } from "./dialects/index.ts";
import type { AttemptSettings } from "./middleware/proxy/attempt-settings.ts";
import type { ResolvedOptions } from "./options/resolved.ts";

export interface SendingParts extends Pick<AttemptSettings, "countTokens" | "inputTokens" | "maxOutputTokensOf" | "outputCapOf"> {
  readonly clock: Clock;
}

export function sending({ resilience, server, router }: ResolvedOptions, { clock, ...known }: SendingParts): AttemptSettings {
  return {
    ...known,
    dialectOf: (call: Call) => dialect(call.dialect),
    codecOf,
    nextId: idFactory(clock.now),
    lossy: router.lossy,
    firstByteTimeoutMs: resilience.firstByteTimeoutMs,
    idleTimeoutMs: resilience.idleTimeoutMs,
    requestTimeoutMs: server.requestTimeoutMs,
  };
}
