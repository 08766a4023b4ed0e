// The ledger's bench: what it says of a ledger that loses rows, refuses them, or holds the process up.
import { expect, test } from "vitest";
import { memoryStore, type Ledger } from "quotaguard";
import { arrivals, type Measured } from "../../bench/ledger/arrivals.ts";
import { ledgerReport } from "../../bench/ledger/ledger-report.ts";

const PACE = { perSecond: 500, warmUpMs: 0, measureMs: 100 };
const memory = (): Ledger => memoryStore().ledger;

test("every request that came has its row", async () => {
  const ledger = memory();
  const { rows, failures, intentP50Ms } = await arrivals(ledger, PACE);
  expect(rows).toBe(50);
  expect(await ledger.totals({}, [])).toMatchObject([{ requests: 50 }]);
  expect(failures).toEqual([]);
  expect(intentP50Ms).toBeGreaterThanOrEqual(0);
});

test("a row that is not written is found missing, and a refusal is told", async () => {
  const lossy = memory();
  let closed = 0;
  const losing: Ledger = { ...lossy, close: (row) => void ((closed += 1) % 10 === 0 || lossy.close(row)), intent: () => undefined };
  expect((await arrivals(losing, PACE)).failures).toEqual([["rows that are not in the ledger", 5]]);
  const away: Ledger = { ...memory(), intent: () => Promise.reject(new Error("away")) };
  const { failures, rows } = await arrivals(away, PACE);
  expect([rows, failures]).toEqual([0, [["away", 50]]]);
});

test("a ledger that stops the loop is seen doing it, by the requests that could not come as well", async () => {
  const ledger = memory();
  let blocked = 0;
  const slow: Ledger = {
    ...ledger,
    intent(row) {
      const endMs = performance.now() + (blocked++ === 10 ? 30 : 0);
      while (performance.now() < endMs);
      return ledger.intent(row);
    },
  };
  const { blockMaxMs, intentP99Ms } = await arrivals(slow, PACE);
  expect(blockMaxMs).toBeGreaterThanOrEqual(30);
  expect(intentP99Ms).toBeGreaterThanOrEqual(25);
});

test("the report has a line for each ledger, and names what went wrong", () => {
  const measured: Measured = {
    rows: 2_000,
    seconds: 2,
    cpuUs: 100_000,
    intentP50Ms: 1.5,
    intentP99Ms: 2,
    blockP50Ms: 1.1,
    blockP99Ms: 1.5,
    blockMaxMs: 6,
    failures: [],
  };
  const samples = [
    { id: "idle" as const, ...measured, rows: 0, intentP50Ms: null, intentP99Ms: null },
    { id: "sqlite" as const, ...measured },
    { id: "sqlite" as const, ...measured, blockP99Ms: 1.9, failures: [["away", 3]] as const },
  ];
  const text = ledgerReport({ samples, skipped: new Map([["postgres", "none here"]]), setting: ["Run of a day"] });
  expect(text).toMatch(/^- Run of a day\n- postgres was left out: none here\n/);
  expect(text).toMatch(/\| nothing: no requests at all +\| +– \|/);
  expect(text).toMatch(/\| SQLite +\| 1,000 \(1,000–1,000\) \|.*\| 1\.70 \(1\.50–1\.90\) \|.*\| +50 \(50–50\) \| +\*\*3\*\* \|/);
  expect(text).toContain("- sqlite: 3 × away");
});
