/** fail2ban for clients, with its bans in the store. */
import type { ClientBanView } from "./core/admin.ts";
import type { Services } from "./core/context.ts";
import type { Step } from "./core/step.ts";
import type { Store } from "./core/store.ts";
import type { Metrics } from "./metering/metrics.ts";
import { fail2banStep } from "./middleware/fail2ban.ts";
import { defaultClientBans } from "./options/fail2ban.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { penalties } from "./pool/penalties.ts";

/** Addresses and keys that may be banned at one time: half of the records that the memory store holds, so that a crowd of strangers cannot fill it. */
const MAX_BANS = 50_000;

export interface ClientFence {
  readonly step: Step;
  bans(): readonly ClientBanView[];
  /** False = it was not banned. */
  lift(client: string): boolean;
  close(): void;
}

export async function clientFence(options: ResolvedOptions, services: Services, store: Store, metrics: Metrics | null): Promise<ClientFence> {
  const { clock, logger, events } = services;
  // The part works without the option too: whoever mounts it wants it.
  const numbers = options.fail2ban?.clients ?? defaultClientBans();
  const bans = penalties({
    records: store.records,
    prefix: "client-ban/",
    clock,
    logger,
    maxEntries: MAX_BANS,
    ended: () => metrics?.ban("ended"),
  });
  await bans.load();
  const onBan = (): void => metrics?.ban("began");
  const step = fail2banStep({ ...numbers, strikes: store.strikes, bans, clock, logger, events, onBan });
  return {
    step,
    bans: step.bans,
    lift(client) {
      const lifted = step.lift(client);
      if (lifted) metrics?.ban("ended");
      return lifted;
    },
    close: bans.close,
  };
}
