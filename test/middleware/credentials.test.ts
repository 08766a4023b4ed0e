import { expect, test } from "vitest";
import type { Lease } from "../../src/core/credential.ts";
import { isPromise } from "../../src/core/time.ts";
import { credentialsStep } from "../../src/middleware/credentials.ts";
import { callOf, contextWith, kit, refusalOf, rejectionOf } from "../core/context-kit.ts";
import { credential, NEVER_SENT, offersOf, poolKit } from "../pool/pool-kit.ts";

const { pool, slots } = poolKit(offersOf([credential("main", { models: ["gpt-*"] })], [], { fast: "gpt-4o-mini" }));
const step = credentialsStep({ pool, tokensOf: () => 42, holderOf: () => null });
const asking = (model: string, later = false) =>
  contextWith(kit().services, { reader: { call: () => (later ? Promise.resolve(callOf(model)) : callOf(model)) } });

test("says how to lease, and lends nothing yet", () => {
  const ctx = asking("fast");
  expect(isPromise(step(ctx))).toBe(false);
  expect([pool.inFlight("main"), ctx.lease]).toEqual([0, undefined]);
  const lease = ctx.choice?.next() as Lease;
  expect([lease.credential.name, lease.model, pool.inFlight("main")]).toEqual(["main", "gpt-4o-mini", 1]);
  lease.release(NEVER_SENT);
  // Under the request's own id, so that two requests never share a slot.
  expect(slots.finished).toEqual([{ opId: `${ctx.id}.a1`, tokens: null }]);
});

test("waits for a call that is on its way", async () => {
  const ctx = asking("gpt-4o", true);
  await step(ctx);
  expect(ctx.choice).toBeDefined();
});

test("refuses a model that nobody offers, at once or later", async () => {
  expect(refusalOf(() => step(asking("claude")))).toMatchObject({ code: "model_not_found", param: "model" });
  expect((await rejectionOf(step(asking("claude", true)) as Promise<void>)).code).toBe("model_not_found");
});
