// The books are watched while a guard runs: what is wrong is counted, and told once.
import { expect, onTestFinished, test } from "vitest";
import type { LedgerRow } from "../src/core/ledger.ts";
import { books, type Books } from "../src/books.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { AT, rowOf } from "../src/testing/store-contract/ledger-rows.ts";
import { testClock, type TestClock } from "../src/testing/clock.ts";
import { recorder } from "../src/recorder.ts";
import { contextWith, keptLogger, kit as contextKit } from "./core/context-kit.ts";

const MINUTE_MS = 60_000;

interface Watched {
  readonly kept: Books;
  readonly lines: ReturnType<typeof keptLogger>["lines"];
  count(): number;
}

function kit(clock: TestClock) {
  const store = memoryStore({ clock });
  return {
    write: (...rows: readonly LedgerRow[]) => rows.forEach((row) => store.ledger.close(row)),
    store,
    /** One more process. */
    watch(): Watched {
      const logger = keptLogger();
      let count = 0;
      const kept = books({
        options: {
          modelAlias: {},
          models: [],
          router: { strategy: "round-robin", sticky: null, fallbackChains: {}, lossy: false, reservation: { ttlMs: 300_000 } },
        },
        ledger: store.ledger,
        seals: undefined,
        records: store.records,
        prices: { at: () => ({ find: () => null, cost: () => null, ceiling: () => null, maxOutputTokens: () => null }) },
        metrics: { conservationViolation: () => void (count += 1) },
        clock,
        logger,
      });
      kept.begin();
      onTestFinished(() => kept.stop());
      return { kept, lines: logger.lines, count: () => count };
    },
  };
}

/** Audits are promises over a store in memory. */
const settled = async (): Promise<void> => {
  for (let i = 0; i < 50; i += 1) await new Promise(setImmediate);
};

test("a row that does not balance is counted and told as it is closed, and nothing is said of one that does", () => {
  const { kept, lines, count } = kit(testClock({ now: AT })).watch();
  kept.closing(rowOf("sound"));
  expect([count(), lines]).toEqual([0, []]);
  kept.closing(rowOf("wrong", { usage: null }));
  expect([count(), lines]).toEqual([
    1,
    [
      {
        level: "error",
        fields: { code: "QG_CONSERVATION", invariant: "I1", id: "wrong" },
        message: "user=alice: the row of request wrong (wrong) is settled without usage",
      },
    ],
  ]);
});

test("each row that is written is looked at first", () => {
  const seen: string[] = [];
  const { services } = contextKit();
  const { ledger } = memoryStore();
  const ctx = contextWith(services);
  ctx.attempts = 1;
  recorder({ ...ledger, close: ({ state }) => void seen.push(`written ${state}`) }, null, ({ state }) => void seen.push(`seen ${state}`)).close(ctx);
  expect(seen).toEqual(["seen refused", "written refused"]);
});

test("the rows of the last hour are looked at every ten minutes; each fault is told once", async () => {
  const clock = testClock({ now: AT });
  const { watch, write } = kit(clock);
  const { lines, count } = watch();
  write(rowOf("old", { at: AT - 120 * MINUTE_MS, usage: null }), rowOf("wrong", { usage: null }), rowOf("sound"));
  clock.advance(9 * MINUTE_MS);
  await settled();
  expect(count()).toBe(0);
  clock.advance(MINUTE_MS);
  await settled();
  expect([count(), lines.map(({ fields }) => fields["id"])]).toEqual([1, ["wrong"]]);
  write(rowOf("later", { at: clock.now(), usage: null }));
  clock.advance(10 * MINUTE_MS);
  await settled();
  expect([count(), lines.map(({ fields }) => fields["id"])]).toEqual([2, ["wrong", "later"]]);
});

test("of several processes one looks", async () => {
  const clock = testClock({ now: AT });
  const { watch, write } = kit(clock);
  const both = [watch(), watch()];
  write(rowOf("wrong", { usage: null }));
  clock.advance(10 * MINUTE_MS);
  await settled();
  expect(both.reduce((sum, each) => sum + each.count(), 0)).toBe(1);
});

test("very many faults are all counted, and twenty an hour told", () => {
  const clock = testClock({ now: AT });
  const { kept, lines, count } = kit(clock).watch();
  for (let i = 0; i < 100; i += 1) kept.closing(rowOf(`wrong${i}`, { usage: null }));
  expect([count(), lines.length]).toEqual([100, 20]);
  clock.advance(61 * MINUTE_MS);
  kept.closing(rowOf("next", { usage: null }));
  expect(lines.length).toBe(21);
});

test("a ledger that is away is no fault of the books, and the next round looks again", async () => {
  const clock = testClock({ now: AT });
  const { watch, write, store } = kit(clock);
  const { lines, count } = watch();
  const { scan } = store.ledger;
  store.ledger.scan = () => {
    throw new Error("away");
  };
  write(rowOf("wrong", { at: AT + 15 * MINUTE_MS, usage: null }));
  clock.advance(10 * MINUTE_MS);
  await settled();
  expect([count(), lines.map(({ level }) => level)]).toEqual([0, ["debug"]]);
  store.ledger.scan = scan;
  clock.advance(10 * MINUTE_MS);
  await settled();
  expect(count()).toBe(1);
});

test("nothing goes on after the end", async () => {
  const clock = testClock({ now: AT });
  const { watch, write } = kit(clock);
  const { kept, lines, count } = watch();
  kept.stop();
  write(rowOf("wrong", { usage: null }));
  clock.advance(60 * MINUTE_MS);
  await settled();
  expect([count(), lines]).toEqual([0, []]);
});
