// Whatever becomes of requests, an audit of their rows finds nothing; and whatever is done to a row afterwards, it finds.
import { DatabaseSync } from "node:sqlite";
import express from "express";
import { expect, onTestFinished, test } from "vitest";
import { contextOf, createGuard, type GuardOptions } from "quotaguard";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { expectConserved, fakeUpstream, recordingStore, type FakeUpstream } from "quotaguard/testing";
import { chat, gatewayOptions, listen, OTHER_KEY } from "../helpers/app.ts";
import { tempFolder } from "../stores/sqlite-kit.ts";

const SECRET = "a-secret-key-of-the-operator-0001";

async function start(more: (upstream: FakeUpstream) => GuardOptions) {
  const upstream = await fakeUpstream();
  const path = `${tempFolder()}/quota.db`;
  const opened = sqliteStore(path);
  const store = recordingStore({ store: opened });
  const options = gatewayOptions(upstream, { store, secrets: { key: SECRET }, ...more(upstream) });
  const guard = createGuard({ ...options, scopes: () => ({ user: "carol" }) });
  const app = express();
  app.post("/summary", guard.budgets({ cost: 0.01 }), (req, res) => {
    if (req.headers["x-meter"]) contextOf(req).meter({ usd: 0.004 });
    res.send("ok");
  });
  app.use("/llm", guard.handler());
  await guard.ready();
  const { url, close } = await listen(app);
  onTestFinished(async () => {
    await close();
    await guard.close();
    await opened.close();
    await upstream.close();
  });
  const settled = async (): Promise<void> => {
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
  };
  return { upstream, options, store, guard, url, path, settled };
}

const PRICES = {
  models: [{ name: "gpt-4o", price: { inputPerMtok: 2.5, outputPerMtok: 10 } }],
  modelAlias: { fast: "gpt-4o" },
  prices: { markupPct: 7, rules: [{ org: "acme", markupPct: 30 }] },
  limits: [{ name: "user-day", scope: "user", unit: "usd" as const, window: { limit: 1, per: "day" as const } }],
};

test("a mixed load leaves nothing to find, whichever way its requests end", async () => {
  const { upstream, options, store, guard, url, settled } = await start(({ url: baseUrl }) => ({
    ...PRICES,
    credentials: ["a", "b"].map((name) => ({ name, provider: "openai" as const, apiKey: `sk-upstream-${name}`, baseUrl })),
    server: { requestTimeout: 200 },
    resilience: { maxRetries: 1 },
    monitoring: { prometheusEnabled: true },
  }));
  upstream.script([{}, { status: 500 }, { status: 400 }, { fault: { at: "start", how: "hang" } }, { fault: { at: "start", how: "hang" } }, {}, {}]);
  const ask = async (body: object, key?: string): Promise<number> => {
    const response = await chat(url, { model: "gpt-4o", max_tokens: 50, ...body }, key === undefined ? {} : { key });
    await response.text().catch(() => "");
    return response.status;
  };
  const statuses = [];
  for (const body of [{}, {}, {}, {}, { stream: true }, { model: "fast" }]) statuses.push(await ask(body));
  statuses.push(await ask({ max_tokens: 1_000_000 }), await ask({ model: "unknown" }, OTHER_KEY), await ask({}, "no-key-of-ours-at-all-0001"));
  expect(statuses).toContain(200);
  for (const headers of [{}, { "x-meter": "1" }]) expect((await fetch(`${url}/summary`, { method: "POST", headers })).status).toBe(200);
  await guard.run({ scopes: { user: "dora" }, cost: 0.02 }, (quota) => quota.meter({ model: "gpt-4o", inputTokens: 10, outputTokens: 3 }));
  await guard.run({ scopes: { user: "dora" }, cost: 0.02 }, (quota) => quota.release());
  await settled();
  await expectConserved({ guard, store, upstreams: [upstream], options });
  const report = await guard.admin.audit();
  const states = new Set((await guard.ledger.list({})).map(({ state }) => state));
  expect([...states].toSorted()).toEqual(["estimated", "refused", "released", "settled"]);
  expect(report).toMatchObject({ violations: [], more: 0, next: null, seals: { altered: 0, unsealed: 0, foreign: 0 } });
  // What a job of the host's metered is priced, and is no call that was sent.
  expect(report.unchecked.map(({ rows }) => rows)).toEqual([1]);
  expect([report.rows, report.seals.intact]).toEqual([report.rows, report.rows]);
  expect(report.rows).toBeGreaterThanOrEqual(11);
  expect((await guard.metrics())?.text).toContain("quotaguard_conservation_violations_total 0");
});

test("a row that is altered in the file is named, and is right again once it is as it was", async () => {
  const { guard, url, path, settled } = await start(() => PRICES);
  for (let i = 0; i < 3; i += 1) expect((await chat(url, { model: "gpt-4o", max_tokens: 50 })).status).toBe(200);
  await settled();
  const [row] = await guard.ledger.list({});
  const db = new DatabaseSync(path);
  onTestFinished(() => db.close());
  const alter = (sign: string): void =>
    void db
      .prepare(`update quotaguard_ledger set input_tokens = input_tokens ${sign} 1, output_tokens = output_tokens ${sign} 1 where id = ?`)
      .run(row?.id ?? "");
  alter("+");
  expect((await guard.admin.audit()).violations).toEqual([
    expect.objectContaining({ invariant: "seal", requestId: row?.requestId, id: row?.id }),
    // Its tokens do not cost what it says, either.
    expect.objectContaining({ invariant: "I1", id: row?.id, message: expect.stringContaining("by its prices its usage costs") as string }),
  ]);
  alter("-");
  expect((await guard.admin.audit()).violations).toEqual([]);
});
