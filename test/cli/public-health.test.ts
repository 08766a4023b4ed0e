import { expect, test } from "vitest";
import { publicHealth } from "../../src/cli/public-health.ts";
import type { BlockView, CredentialState, CredentialView, HealthView } from "../../src/core/admin.ts";

const rate = { used: 0, limit: -1 };
const credential = (name: string, state: CredentialState): CredentialView => ({
  name,
  provider: "openai",
  isFallback: false,
  priority: 0,
  inFlight: 0,
  state,
  until: null,
  reason: null,
  quotas: [],
  level: null,
  rpm: rate,
  tpm: rate,
  models: [],
});
const block = (model: string): BlockView => ({ credential: "a", model, code: 500, reason: "too many", since: 0, until: null });

const healthWith = (
  credentials: readonly CredentialView[],
  bans: readonly BlockView[] = [],
  cooldowns: readonly BlockView[] = [],
  more: Partial<HealthView> = {},
) =>
  publicHealth({
    health: () => ({ status: "ok", store: "memory", uptimeSeconds: 1, openRequests: 0, waitingSettlements: 0, credentials, ...more }),
    bans: () => bans,
    cooldowns: () => cooldowns,
  });

test("bans of models that no configuration names are counted, and not named to strangers", () => {
  const { status, body } = healthWith([credential("a", "ready")], [block("made-up-by-a-client")], [block("one"), block("two")]);
  expect(status).toBe(200);
  expect(body).toMatchObject({ credentials_available: 1, credentials_banned: 0, bans: 1, cooldowns: 2 });
  expect(JSON.stringify(body)).not.toContain("made-up");
});

test.each<readonly [CredentialState, 200 | 503]>([
  ["ready", 200],
  ["limited", 200],
  ["cooling", 503],
  ["banned", 503],
  ["failing", 503],
])("a server whose only credential is %s answers %i", (state, status) => expect(healthWith([credential("a", state)]).status).toBe(status));

test.each(["ok", "degraded", "rebuilding"] as const)("a store that is %s is said to be, and no more than that", (state) => {
  const { status, body } = healthWith([credential("a", "ready")], [], [], { storeState: { state, since: 5, reason: "it is away" } });
  expect([status, body["store_state"]]).toEqual([200, state]);
  expect(JSON.stringify(body)).not.toContain("it is away");
});

test("a server that has not started yet says nothing of its store", () => {
  expect(healthWith([], [], [], { status: "starting" })).toMatchObject({ status: 503, body: { state: "starting" } });
  expect(healthWith([], [], [], { status: "starting" }).body).not.toHaveProperty("store_state");
});
