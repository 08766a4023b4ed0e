import type { ResolvedOptions } from "../options/resolved.ts";

/** What is right as it stands and will surprise its operator one day all the same. */
export function cautions({ fail2ban, management, store }: ResolvedOptions): readonly string[] {
  if (!fail2ban || management.key || store.kind === "memory") return [];
  const lasting = [fail2ban, ...fail2ban.rules, ...(fail2ban.clients ? [fail2ban.clients] : [])];
  if (lasting.every(({ banMs }) => banMs !== null)) return [];
  return [
    "fail2ban: permanent bans outlive a restart, and only the management API lifts them; set QUOTAGUARD_MANAGEMENT_KEY (management.key), or a duration",
  ];
}
