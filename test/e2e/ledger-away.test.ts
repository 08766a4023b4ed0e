// A gateway whose ledger's database goes away under load: it serves on, and what it served is in the ledger afterwards, once.
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { createGuard, type GuardOptions } from "quotaguard";
import { keptLogger } from "../core/context-kit.ts";
import { chat, testGateway, type TestGateway } from "../helpers/app.ts";
import { endChildren } from "../helpers/child.ts";
import { testServer } from "../setup/test-server.ts";
import { sqlOn } from "../stores/postgres-kit.ts";
import { files, goAway, killedWhileAway, ledgerOf, place, rowsOf, SECRETS, type Place } from "./ledger-away-kit.ts";

const server = await testServer("postgres");
const MODELS = [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }];
const LIMITS: NonNullable<GuardOptions["limits"]> = [{ name: "all", scope: "global", unit: "usd", window: { limit: 1_000, per: "day" } }];

let gateway: TestGateway | undefined;
afterEach(async () => {
  await endChildren();
  await gateway?.close();
  gateway = undefined;
});

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
    const at = await place(server as string);
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
    const at = await place(server as string);
    gateway = await testGateway({ ledger: { url: at.url, spool: false }, secrets: SECRETS, logger: keptLogger() });
    goAway(at);
    expect((await chat(gateway.url)).status).toBe(503);
    expect(files(at.path)).toEqual([]);
    at.wire.set({ refuse: false });
  });

  test("to the end of the process: its rows are in the ledger after the next start", async () => {
    const at = await place(server as string);
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
    const at = await place(server as string);
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

  test(
    "kill -9 while it writes to its file, and while it writes that to the ledger: each request that was sent has one row",
    { timeout: 60_000 },
    async () => {
      const at = await place(server as string);
      gateway = await testGateway();
      await killedWhileAway(at, gateway.upstream, 2);
    },
  );
});
