// A gateway whose ledger's database goes away under load: it serves on, and what it served is in the ledger afterwards, once.
import { existsSync, readdirSync } from "node:fs";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { createGuard, type GuardOptions } from "quotaguard";
import { keptLogger } from "../core/context-kit.ts";
import { chat, gatewayOptions, KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";
import { endChildren, ROOT, script } from "../helpers/child.ts";
import { testServer } from "../setup/test-server.ts";
import { ownSchema, sqlOn, wired } from "../stores/postgres-kit.ts";
import { tempFolder } from "../stores/sqlite-kit.ts";
import type { ChaosTcp } from "../chaos/kit/chaos-tcp.ts";

const server = await testServer("postgres");
const SECRETS = { key: "a-secret-key-for-this-test-only" };
const MODELS = [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }];
const LIMITS: NonNullable<GuardOptions["limits"]> = [{ name: "all", scope: "global", unit: "usd", window: { limit: 1_000, per: "day" } }];

let gateway: TestGateway | undefined;
afterEach(async () => {
  await endChildren();
  await gateway?.close();
  gateway = undefined;
});

interface Place {
  readonly wire: ChaosTcp;
  readonly url: string;
  readonly schema: string;
  readonly path: string;
}

async function place(): Promise<Place> {
  const schema = ownSchema(server as string);
  const { wire, url } = await wired(server as string);
  return { wire, schema, url: `${url}?schema=${schema}`, path: join(tempFolder(), "spool") };
}

const ledgerOf = ({ url, path }: Place) => ({ url, spool: { path } });
const files = (path: string): string[] => (existsSync(path) ? readdirSync(path) : []);
const goAway = ({ wire }: Place): void => {
  wire.set({ refuse: true });
  wire.cut();
};

interface StoredRow {
  readonly id: string;
  readonly request_id: string;
  readonly state: string;
  readonly billed_nano_usd: string | null;
}

const rowsOf = async ({ schema }: Place): Promise<readonly StoredRow[]> =>
  (await sqlOn(
    server as string,
    `select id, request_id, state, billed_nano_usd from ${schema}.quotaguard_ledger order by id`,
  )) as unknown as StoredRow[];

async function metric(name: string): Promise<number> {
  const { text = "" } = (await gateway?.guard.metrics()) ?? {};
  return Number(
    text
      .split("\n")
      .find((line) => line.startsWith(`quotaguard_${name} `))
      ?.split(" ")
      .at(-1),
  );
}

describe.skipIf(server === undefined)("a gateway whose Postgres goes away", () => {
  test.each([
    ["is cut off", goAway],
    ["does not answer any more", ({ wire }: Place): void => wire.set({ blackHole: true })],
  ])("and %s, under load: every answer is 200, and each request has one row", { timeout: 40_000 }, async (_how, away) => {
    const at = await place();
    const logger = keptLogger();
    gateway = await testGateway({
      ledger: ledgerOf(at),
      secrets: SECRETS,
      models: MODELS,
      limits: LIMITS,
      logger,
      monitoring: { prometheusEnabled: true },
    });
    const { guard, url, upstream } = gateway;
    const codes = (): unknown[] => logger.lines.flatMap(({ fields }) => fields["code"] ?? []);
    const statuses = new Map<number, number>();
    const told: string[] = [];
    const load = { isOver: false };
    const worker = async (): Promise<void> => {
      while (!load.isOver) {
        const response = await chat(url, { max_tokens: 10 });
        statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
        await response.text();
        told.push(response.headers.get("x-request-id") as string);
      }
    };
    const workers = Promise.all(Array.from({ length: 8 }, worker));
    const served = async (count: number): Promise<void> => {
      const target = told.length + count;
      await expect.poll(() => told.length, { timeout: 15_000 }).toBeGreaterThan(target);
    };
    await served(50);
    away(at);
    await expect.poll(() => codes(), { timeout: 10_000 }).toContain("QG_LEDGER_SPOOLING");
    await served(300);
    expect(guard.admin.health()).toMatchObject({
      status: "ok",
      storeState: { state: "degraded", reason: expect.stringMatching(/\d+ rows are kept in a file/) as string },
    });
    expect([await metric("spool_rows"), await metric("spool_bytes"), await metric("store_degraded")]).toEqual([
      expect.toSatisfy((rows: number) => rows > 300),
      expect.toSatisfy((bytes: number) => bytes > 10_000),
      1,
    ]);
    at.wire.set({ refuse: false, blackHole: false });
    at.wire.cut();
    await expect.poll(() => guard.admin.health().storeState?.state, { timeout: 15_000 }).toBe("ok");
    await served(50);
    load.isOver = true;
    await workers;
    await guard.ledger.flush();
    expect([...statuses.keys()]).toEqual([200]);
    expect([files(at.path), await metric("spool_rows"), await metric("spool_bytes")]).toEqual([[], 0, 0]);
    const rows = await rowsOf(at);
    expect(rows.map(({ request_id: id }) => id).toSorted()).toEqual(told.toSorted());
    expect(rows.filter(({ state }) => state !== "settled")).toEqual([]);
    // What the provider saw is what the ledger says, and what the counters say.
    expect(upstream.log.length).toBe(rows.length);
    const billed = rows.reduce((sum, row) => sum + Number(row.billed_nano_usd), 0) / 1e9;
    const [all] = await guard.remaining({});
    expect(all?.used).toBeCloseTo(billed, 9);
    expect(codes().filter((code) => String(code).startsWith("QG_LEDGER"))).toEqual(["QG_LEDGER_SPOOLING", "QG_LEDGER_REPLAYED"]);
  });

  test("with spool: false it refuses, as without one", async () => {
    const at = await place();
    gateway = await testGateway({ ledger: { url: at.url, spool: false }, secrets: SECRETS, logger: keptLogger() });
    goAway(at);
    expect((await chat(gateway.url)).status).toBe(503);
    expect(files(at.path)).toEqual([]);
    at.wire.set({ refuse: false });
  });

  test("to the end of the process: its rows are in the ledger after the next start", async () => {
    const at = await place();
    const logger = keptLogger();
    gateway = await testGateway({ ledger: ledgerOf(at), secrets: SECRETS, logger });
    goAway(at);
    for (let i = 0; i < 3; i += 1) expect((await chat(gateway.url)).status).toBe(200);
    await gateway.close();
    gateway = undefined;
    expect([files(at.path).length, await rowsOf(at)]).toEqual([1, []]);
    at.wire.set({ refuse: false });
    const next = createGuard({ ledger: ledgerOf(at), secrets: SECRETS, logger });
    onTestFinished(() => next.close());
    await next.ready();
    await expect.poll(() => files(at.path)).toEqual([]);
    expect((await rowsOf(at)).map(({ state }) => state)).toEqual(["settled", "settled", "settled"]);
  });

  test("rows that another process closed meanwhile as unknown give way to what is known", async () => {
    const at = await place();
    gateway = await testGateway({ ledger: ledgerOf(at), secrets: SECRETS, logger: keptLogger() });
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    let calls = 0;
    gateway.upstream.script(() => ((calls += 1) === 1 ? { hold: held } : {}));
    const answer = chat(gateway.url);
    await expect.poll(() => gateway?.upstream.log.length).toBe(1);
    goAway(at);
    // Another process takes it for dead.
    await sqlOn(server as string, `delete from ${at.schema}.quotaguard_owner`);
    const other = createGuard({ ledger: { url: `${server as string}?schema=${at.schema}`, spool: false }, secrets: SECRETS, logger: keptLogger() });
    onTestFinished(() => other.close());
    await other.ready();
    expect((await rowsOf(at)).map(({ state }) => state)).toEqual(["unknown"]);
    expect((await chat(gateway.url)).status).toBe(200);
    release();
    expect((await answer).status).toBe(200);
    at.wire.set({ refuse: false });
    await expect.poll(() => gateway?.guard.admin.health().storeState?.state, { timeout: 15_000 }).toBe("ok");
    expect((await rowsOf(at)).map(({ state }) => state)).toEqual(["settled", "settled"]);
  });

  const gatewayProcess = (at: Place, upstream: string): string => `
    import { createServer } from "node:http";
    import { createGuard } from "quotaguard";
    const guard = createGuard({
      auth: { keys: [{ name: "alice", key: "${KEY}", scopes: { user: "alice" } }] },
      credentials: [{ name: "main", provider: "openai", apiKey: "${UPSTREAM_KEY}", baseUrl: "${upstream}" }],
      ledger: ${JSON.stringify(ledgerOf(at))},
      secrets: ${JSON.stringify(SECRETS)},
    });
    const handle = guard.handler();
    await guard.ready();
    const server = createServer((req, res) => handle(req, res, () => res.writeHead(404).end()));
    server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
  `;

  test(
    "kill -9 while it writes to its file, and while it writes that to the ledger: each request that was sent has one row",
    { timeout: 60_000 },
    async () => {
      const at = await place();
      gateway = await testGateway();
      const { upstream } = gateway;
      const answered = new Set<string>();
      async function started(): Promise<{ kill(): Promise<void>; readonly url: string }> {
        const child = script(gatewayProcess(at, upstream.url), { cwd: ROOT });
        const url = `http://127.0.0.1:${(await child.line(/^port \d+$/)).slice(5)}`;
        return {
          url,
          async kill() {
            child.kill("SIGKILL");
            await child.ended;
          },
        };
      }
      /** Asks until the process is gone. */
      async function worker(url: string): Promise<void> {
        for (;;) {
          const id = randomUUID();
          try {
            const response = await fetch(`${url}/v1/chat/completions`, {
              method: "POST",
              headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json", "x-request-id": id },
              body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] }),
            });
            await response.text();
            if (response.status === 200) answered.add(id);
          } catch {
            return;
          }
        }
      }
      for (let round = 0; round < 2; round += 1) {
        const first = await started();
        const load = Promise.all(Array.from({ length: 8 }, async () => worker(first.url)));
        const before = answered.size;
        await expect.poll(() => answered.size, { timeout: 10_000 }).toBeGreaterThan(before + 10);
        goAway(at);
        await expect.poll(() => answered.size, { timeout: 10_000 }).toBeGreaterThan(before + 100);
        await first.kill();
        await load;
        expect(files(at.path)).toHaveLength(1);
        at.wire.set({ refuse: false, delayMs: round * 20 });
        // In the middle of its replay: rows are going over, and their file is still there.
        const second = await started();
        await second.kill();
        at.wire.set({ delayMs: 0 });
      }
      const last = createGuard({ ...gatewayOptions(upstream), ledger: ledgerOf(at), secrets: SECRETS, logger: keptLogger() });
      onTestFinished(() => last.close());
      await last.ready();
      await expect.poll(() => files(at.path), { timeout: 10_000 }).toEqual([]);
      await expect
        .poll(async () => (await sqlOn(server as string, `select from ${at.schema}.quotaguard_intent`)).length, { timeout: 10_000 })
        .toBe(0);
      const rows = await rowsOf(at);
      const ids = rows.map(({ request_id: id }) => id);
      expect(new Set(ids).size).toBe(ids.length);
      expect([...answered].filter((id) => !ids.includes(id))).toEqual([]);
      // A request that reached the provider has its row, whether its client got the answer or not; nobody is charged for more.
      expect(ids.length).toBeGreaterThanOrEqual(upstream.log.length);
      const known = new Set(rows.filter(({ state }) => state === "settled").map(({ request_id: id }) => id));
      // Only ends of the last moment may be unknown: those that no disk and no database had yet.
      expect([...answered].filter((id) => !known.has(id)).length).toBeLessThan(2 * 8 * 2);
    },
  );
});
