import type { Admin, HealthView } from "./core/admin.ts";
import { GuardError } from "./core/errors.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { Runtime } from "./runtime.ts";

export interface StartingAdminParts {
  readonly options: ResolvedOptions;
  readonly started: () => Runtime | undefined;
  readonly waitForStart: () => Promise<Runtime>;
  readonly status: () => HealthView["status"];
  readonly openRequests: () => number;
}

/**
 * The admin interface of a guard that may still be starting. `health` answers at once; what may take its time waits for the start; the rest is refused
 * with `store_unavailable`, because what the store keeps is not known yet: an empty list would be a lie, and a change would be lost.
 */
export function startingAdmin({ options, started, waitForStart, status, openRequests }: StartingAdminParts): Admin {
  function running(): Admin {
    const runtime = started();
    if (runtime) return runtime.admin;
    throw new GuardError("store_unavailable", "the gateway has not started yet; try again", { retryAfterMs: 1_000 });
  }

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
    keys: {
      create: async (key) => (await waitForStart()).admin.keys.create(key),
      list: async () => (await waitForStart()).admin.keys.list(),
      rotate: async (name, how) => (await waitForStart()).admin.keys.rotate(name, how),
      revoke: async (name) => (await waitForStart()).admin.keys.revoke(name),
    },
    orgs: {
      create: async (org) => (await waitForStart()).admin.orgs.create(org),
      list: async () => (await waitForStart()).admin.orgs.list(),
      disable: async (name) => (await waitForStart()).admin.orgs.disable(name),
      enable: async (name) => (await waitForStart()).admin.orgs.enable(name),
    },
    limits: {
      list: () => running().limits.list(),
      set: async (name, value, numbers) => (await waitForStart()).admin.limits.set(name, value, numbers),
      update: async (name, change) => (await waitForStart()).admin.limits.update(name, change),
      reset: async (name, value) => (await waitForStart()).admin.limits.reset(name, value),
      shadow: async (name) => (await waitForStart()).admin.limits.shadow(name),
    },
    credentials: () => running().credentials(),
    reservations: () => running().reservations(),
    pause: async (credential, pausing) => (await waitForStart()).admin.pause(credential, pausing),
    resume: async (credential) => (await waitForStart()).admin.resume(credential),
    bans: () => running().bans(),
    liftBans: (credential, model) => running().liftBans(credential, model),
    cooldowns: () => running().cooldowns(),
    clearCooldowns: (credential, model) => running().clearCooldowns(credential, model),
    clientBans: () => running().clientBans(),
    liftClientBan: (client) => running().liftClientBan(client),
    discoverModels: async () => (await waitForStart()).admin.discoverModels(),
    bucket: async (address) => (await waitForStart()).admin.bucket(address),
    setBucket: async (address, numbers) => (await waitForStart()).admin.setBucket(address, numbers),
    syncLimits: async () => (await waitForStart()).admin.syncLimits(),
    openCounters: async () => (await waitForStart()).admin.openCounters(),
    usage: async (query) => (await waitForStart()).admin.usage(query),
    audit: async (range) => (await waitForStart()).admin.audit(range),
    quotas: () => running().quotas(),
    explain: async (question) => (await waitForStart()).admin.explain(question),
  };
}
