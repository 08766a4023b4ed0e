import { expect, test } from "vitest";
import { clientFence } from "../src/client-fence.ts";
import { GuardError } from "../src/core/errors.ts";
import { resolveOptions } from "../src/options.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { contextWith, kit } from "./core/context-kit.ts";

test("a crowd of banned addresses leaves room in the store for everything else", async () => {
  const { clock, services, logger } = kit();
  const store = memoryStore({ clock });
  for (let i = 0; i < 40_000; i += 1) await store.records.put(`file/${i}`, "alice");
  const fence = await clientFence(resolveOptions({ fail2ban: { clients: { maxAttempts: 1 } } }), services, store, null);
  for (let i = 0; i < 60_000; i += 1) {
    const ctx = contextWith(services, { address: `10.${i >> 16}.${(i >> 8) & 0xff}.${i & 0xff}` });
    await fence.step(ctx);
    ctx.failure = new GuardError("unauthenticated", "wrong");
    await ctx.close({ status: 401, code: "unauthenticated", error: ctx.failure });
  }
  expect(fence.bans()).toHaveLength(50_000);
  expect(logger.lines.filter(({ message }) => message.includes("the store is away"))).toEqual([]);
  expect(await store.records.put("limit/team-tokens", { limit: 5 })).toBeDefined();
  fence.close();
});
