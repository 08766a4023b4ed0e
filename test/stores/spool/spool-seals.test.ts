// Rows that went through a file carry right seals, also where they take the place of an `unknown` that another process had written and sealed.
import { describe, expect, onTestFinished, test } from "vitest";
import type { LedgerRow } from "../../../src/core/ledger.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { LedgerStore } from "../../../src/core/store.ts";
import { systemClock } from "../../../src/core/time.ts";
import { postgresStore } from "../../../src/stores/postgres/index.ts";
import { orphanRow } from "../../../src/stores/sql/ledger-rows.ts";
import { spooledLedger } from "../../../src/stores/spool/spooled-ledger.ts";
import { keptLogger } from "../../core/context-kit.ts";
import { intentOf, rowOf } from "../../contracts/ledger-rows.ts";
import { testServer } from "../../setup/test-server.ts";
import { ownSchema, wired } from "../postgres-kit.ts";
import { tempFolder } from "../sqlite-kit.ts";

const server = (await testServer("postgres")) as string;
const KEY = new Secret("a-secret-key-of-the-operator-0001");

/** What databases and files write otherwise than it came. */
const usage: LedgerRow["usage"] = {
  inputTokens: 1,
  cacheReadTokens: 0,
  cacheWriteTokens: 0,
  cacheWriteLongTokens: 4,
  outputTokens: 2,
  reasoningTokens: 0,
  images: 1,
  requests: 3,
  reportedUsd: 0.1 + 0.2,
  raw: [{ "a\0b": "x\0\ud800", 9: 1, 1: -0, tiny: 1e-7, large: 1.5e30, nested: { list: [1, "\udfff"] } }],
};

async function sealed(url: string, schema: string): Promise<LedgerStore & Required<Pick<LedgerStore, "replay">>> {
  const store = postgresStore(url, { schema, logger: keptLogger() });
  store.seals?.use(KEY);
  await store.ready();
  onTestFinished(async () => {
    await store.close();
  });
  return store as LedgerStore & Required<Pick<LedgerStore, "replay">>;
}

async function seals(store: LedgerStore): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const page of store.seals?.examine(-Infinity, Infinity) ?? []) for (const { id, row, seal } of page) found[id] = `${row?.state} ${seal}`;
  return found;
}

describe.skipIf(server === undefined)("seals of rows from a spool", () => {
  test("are right, for new rows and for ends of what was unknown", async () => {
    const schema = ownSchema(server);
    const { wire, url } = await wired(server);
    const store = await sealed(url, schema);
    const other = await sealed(server, schema);
    const logger = keptLogger();
    const spool = spooledLedger({ store, name: "a", path: `${tempFolder()}/spool`, maxBytes: 1e7, maxTimeMs: 900_000, clock: systemClock, logger });
    onTestFinished(async () => void (await spool.close()));
    await spool.start();
    const { ledger } = spool;
    await ledger.intent(intentOf("cut off"));
    wire.set({ refuse: true });
    wire.cut();
    await ledger.intent(intentOf("new"));
    for (const id of ["cut off", "new"]) ledger.close(rowOf(id, { usage }));
    other.ledger.close(orphanRow({ ...rowOf("cut off", { usage: null }), rawNanoUsd: null, priceVersion: null }));
    await other.ledger.flush();
    expect(await seals(other)).toEqual({ "cut off": "unknown intact" });
    wire.set({ refuse: false });
    await expect.poll(() => spool.state().since, { timeout: 10_000 }).toBe(null);
    expect(await seals(other)).toEqual({ "cut off": "settled intact", new: "settled intact" });
  });
});
