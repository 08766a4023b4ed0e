import type { Admin, CredentialView } from "../core/admin.ts";

/**
 * What `GET /health` tells anybody: whether something can be served, and how each credential stands. No keys, no addresses, no use; those are behind
 * the management key. 503 only when nothing can be served: a credential that is merely at its limit comes back by itself. A ban may be of a model
 * that no line of the configuration names: it is counted, and shown to operators only, because clients make such names.
 */
export function publicHealth(admin: Pick<Admin, "health" | "bans" | "cooldowns">): {
  readonly status: 200 | 503;
  readonly body: Record<string, unknown>;
} {
  const { status, store, storeState, uptimeSeconds, credentials } = admin.health();
  const able = credentials.filter(isAble);
  const isServing = status === "ok" && able.length > 0;
  return {
    status: isServing ? 200 : 503,
    body: {
      status: isServing ? "healthy" : "unhealthy",
      state: status,
      store,
      ...(storeState ? { store_state: storeState.state } : {}),
      uptime_seconds: uptimeSeconds,
      total_credentials: credentials.length,
      credentials_available: able.length,
      credentials_banned: credentials.filter(({ state }) => state === "banned").length,
      bans: admin.bans().length,
      cooldowns: admin.cooldowns().length,
      credentials: Object.fromEntries(credentials.map((credential) => [credential.name, shown(credential)])),
    },
  };
}

const isAble = ({ state }: CredentialView): boolean => state === "ready" || state === "limited";

const until = (ms: number | null): Record<string, string> => (ms === null ? {} : { until: new Date(ms).toISOString() });

function shown(credential: CredentialView): Record<string, unknown> {
  const { provider, isFallback, state } = credential;
  const kept = credential.models.filter((model) => model.state !== "ready");
  return {
    provider,
    is_fallback: isFallback,
    state,
    ...until(credential.until),
    ...(kept.length > 0 ? { models: Object.fromEntries(kept.map((model) => [model.name, { state: model.state, ...until(model.until) }])) } : {}),
  };
}
