import { expect, test } from "vitest";
import type { Lease } from "../../src/core/credential.ts";
import { isPromise } from "../../src/core/time.ts";
import { credentialsStep } from "../../src/middleware/credentials.ts";
import { credentialPool } from "../../src/pool/pool.ts";
import { callOf, contextWith, kit, refusalOf, rejectionOf } from "../core/context-kit.ts";

const pool = credentialPool({
  credentials: [
    {
      name: "main",
      provider: "openai",
      apiKey: null,
      origin: "https://api.example",
      basePath: "",
      models: ["gpt-*"],
      isFallback: false,
      priority: 0,
      weight: 1,
      headers: {},
      allowPrivate: false,
      proxyUrl: null,
    },
  ],
  models: [],
  aliases: { fast: "gpt-4o-mini" },
});
const asking = (model: string, later = false) =>
  contextWith(kit().services, { reader: { call: () => (later ? Promise.resolve(callOf(model)) : callOf(model)) } });

test("says how to lease, and lends nothing yet", () => {
  const ctx = asking("fast");
  expect(isPromise(credentialsStep(pool)(ctx))).toBe(false);
  expect([pool.inFlight("main"), ctx.lease]).toEqual([0, undefined]);
  const lease = ctx.choice?.next() as Lease;
  expect([lease.credential.name, lease.model, pool.inFlight("main")]).toEqual(["main", "gpt-4o-mini", 1]);
  lease.release({ kind: "abandoned" });
});

test("waits for a call that is on its way", async () => {
  const ctx = asking("gpt-4o", true);
  await credentialsStep(pool)(ctx);
  expect(ctx.choice).toBeDefined();
});

test("refuses a model that nobody offers, at once or later", async () => {
  expect(refusalOf(() => credentialsStep(pool)(asking("claude")))).toMatchObject({ code: "model_not_found", param: "model" });
  expect((await rejectionOf(credentialsStep(pool)(asking("claude", true)) as Promise<void>)).code).toBe("model_not_found");
});
