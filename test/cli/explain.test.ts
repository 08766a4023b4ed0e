// On the database alone, and through a gateway that runs.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { explain, type ExplainFlags } from "../../src/cli/explain.ts";
import { CommandError } from "../../src/cli/output.ts";
import { endChildren, folder, serving, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";

const ADMIN = "admin-key-for-tests-0001";
const KEY = "qg-test-key-of-alice-0001";

let upstream: FakeUpstream;
let place: Folder;
beforeAll(async () => {
  upstream = await fakeUpstream();
});
afterAll(() => upstream.close());
beforeEach(() => {
  place = folder();
  place.write("quotaguard.yaml", yaml());
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const yaml = (more = ""): string => `store: { url: "sqlite:./quota.db" }
keys:
  - { name: alice, key: ${KEY}, scopes: { org: acme, user: alice }, models: ["gpt-*"] }
credentials:
  - { name: main, api_key: sk-upstream-1, base_url: ${upstream.url} }
  - { name: spare, api_key: sk-upstream-2, base_url: ${upstream.url}, is_fallback: true }
models:
  - { name: gpt-4o, price: { input_per_mtok: 2.5, output_per_mtok: 10 } }
limits:
  - { name: user-hour, scope: user, unit: requests, window: { limit: 1, per: hour } }
prices: { book: false }
${more}`;

/** What it prints, in this process. */
async function run(id: string | undefined, flags: ExplainFlags = {}): Promise<string> {
  const written: string[] = [];
  const stdout = vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  try {
    expect(await explain(id, { config: `${place.path}/quotaguard.yaml`, ...flags }, Date.now())).toBe(0);
  } finally {
    stdout.mockRestore();
  }
  return written.join("");
}

test("a call to come: who, price, limits, candidates and what its client would get, for people and for scripts", async () => {
  const stdout = await run(undefined, { key: "alice", model: "gpt-4o", maxTokens: "100", text: "hello" });
  const lines = stdout.trimEnd().split("\n");
  expect(lines.slice(0, 6)).toEqual([
    "would be served by main (openai, gpt-4o)",
    "",
    "who     alice of acme",
    "scopes  org=acme user=alice",
    "model   gpt-4o",
    expect.stringMatching(/^price {3}at most 0\.00\d+ USD, probably 0\.00\d+ USD: \d+ tokens in, 100 out$/),
  ]);
  expect(lines).toContainEqual(expect.stringMatching(/^user-hour +acme\/alice +requests +1 of 1 +1 +0 +fits$/));
  expect(lines).toContainEqual(expect.stringMatching(/^1 +main +gpt-4o +may be used$/));
  expect(lines).toContainEqual(expect.stringMatching(/^2 +spare +gpt-4o +may be used, as a fallback$/));
  const json = JSON.parse(await run(undefined, { scope: ["user=bob"], model: "gpt-4o", json: true })) as Record<string, unknown>;
  expect(json).toMatchObject({ from: "database", kind: "call", scopes: { user: "bob" }, outcome: { served: { credential: "main" } } });
});

test("who stands in for the model by a fallback chain is told as such, and so is who is closed", async () => {
  place.write("quotaguard.yaml", yaml("router: { fallback_chains: { gpt-4o: [gpt-4o-mini] }, strategy: least-cost }\n"));
  const lines = (await run(undefined, { key: "alice", model: "gpt-4o" })).split("\n");
  expect(lines).toContainEqual(expect.stringMatching(/^1 +main +gpt-4o +ok, score [\d.]+: costs about \$[\d.]+$/));
  expect(lines).toContainEqual(expect.stringMatching(/^3 +main +gpt-4o-mini +ok, score .*, as a fallback for gpt-4o$/));
});

test("a past request by its id, through the gateway that served it and from its database", async () => {
  place.write("quotaguard.yaml", yaml(`server: { port: ${await freePort()} }\nmanagement: { key: ${ADMIN} }\n`));
  const { url, child } = await serving([], { cwd: place.path });
  const ask = async (): Promise<string> => {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ model: "gpt-4o", messages: [] }),
    });
    await response.text();
    return response.headers.get("x-request-id") as string;
  };
  const [served, refused] = [await ask(), await ask()];
  const stdout = await run(refused);
  expect(stdout).toMatch(/^refused or failed: 429 budget_exhausted\n {2}a limit had no room for it\n/);
  expect(stdout).toMatch(/^limit +user-hour$/m);
  expect(JSON.parse(await run(served, { json: true }))).toMatchObject({ from: "gateway", kind: "request", state: "settled" });
  expect(await run(undefined, { key: "alice", model: "gpt-4o" })).toMatch(/^would be refused: 429 budget_exhausted; Retry-After \d+ s\n/);
  child.kill("SIGTERM");
  await child.ended;
  expect(await run(served)).toMatch(/^served by main \(openai, gpt-4o\)\n[^]*^1 +main +gpt-4o +200/m);
});

test.each<[string | undefined, ExplainFlags, number, string]>([
  ["nothing-of-this-id", {}, 1, "the ledger has no request of this id"],
  [undefined, {}, 2, "give the x-request-id of a past request, or --model"],
  ["some-id", { model: "gpt-4o" }, 2, "not both"],
  [undefined, { model: "gpt-4o", scope: ["alice"] }, 2, "expected scope=value"],
  [undefined, { model: "gpt-4o", scope: ["usr=alice"] }, 2, "did you mean user?"],
  [undefined, { model: "gpt-4o", maxTokens: "many" }, 2, "--max-tokens: many"],
  [undefined, { body: "nowhere.json" }, 2, "--body nowhere.json"],
])("%s with %j ends with %i", async (id, flags, exitCode, message) => {
  const thrown: unknown = await run(id, flags).catch((error: unknown) => error);
  expect(thrown).toBeInstanceOf(CommandError);
  expect([(thrown as CommandError).exitCode, (thrown as CommandError).message]).toEqual([exitCode, expect.stringContaining(message)]);
});
