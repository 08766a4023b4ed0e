import { expect, test } from "vitest";
import { block, choice, credential, lend, NEVER_SENT, offersOf, poolKit } from "./pool-kit.ts";
import type { Lease } from "../../src/core/credential.ts";

test("who was passed over for want of room is told apart from who is not there", () => {
  const { pool, health } = poolKit(offersOf([credential("one"), credential("two")]));
  health.blocked.set("two/m", block("cooling", 5_000));
  const asking = choice(pool);
  (lend(asking) as Lease).release(NEVER_SENT);
  expect(lend(asking)).toBeNull();
  expect(asking.busy?.()).toMatchObject({ code: "all_credentials_limited", retryAfterMs: 5_000 });
  health.blocked.set("two/m", block("banned", null));
  expect(asking.busy?.()).toBeNull();
});
