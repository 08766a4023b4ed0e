import type { Admin, HealthView } from "./core/admin.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { Runtime } from "./runtime.ts";

export interface StartingAdminParts {
  readonly options: ResolvedOptions;
  readonly started: () => Runtime | undefined;
  readonly waitForStart: () => Promise<Runtime>;
  readonly status: () => HealthView["status"];
  readonly openRequests: () => number;
}

/** The admin interface of a guard that may still be starting: what is asked answers at once with what is known, what changes something waits. */
export function startingAdmin({ options, started, waitForStart, status, openRequests }: StartingAdminParts): Admin {
  return {
    health: () =>
      started()?.admin.health() ?? {
        status: status(),
        store: options.store.kind,
        uptimeSeconds: 0,
        openRequests: openRequests(),
        waitingSettlements: 0,
        credentials: [],
      },
    limits: () => started()?.admin.limits() ?? [],
    bans: () => started()?.admin.bans() ?? [],
    liftBans: (credential, model) => started()?.admin.liftBans(credential, model) ?? 0,
    cooldowns: () => started()?.admin.cooldowns() ?? [],
    clearCooldowns: (credential, model) => started()?.admin.clearCooldowns(credential, model) ?? 0,
    clientBans: () => started()?.admin.clientBans() ?? [],
    liftClientBan: (client) => started()?.admin.liftClientBan(client) ?? false,
    discoverModels: async () => (await waitForStart()).admin.discoverModels(),
    bucket: async (address) => (await waitForStart()).admin.bucket(address),
    setBucket: async (address, numbers) => (await waitForStart()).admin.setBucket(address, numbers),
    syncLimits: async () => (await waitForStart()).admin.syncLimits(),
    usage: async (filter, groupBy) => (await waitForStart()).admin.usage(filter, groupBy),
  };
}
