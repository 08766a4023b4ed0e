import type { LedgerStore, Store } from "../../core/store.ts";
import type { MaybePromise } from "../../core/time.ts";
import { testClock, type TestClock } from "../clock.ts";
import type { ContractCase } from "./contract-case.ts";
import { ledgerCases } from "./ledger-cases.ts";
import { AT } from "./ledger-rows.ts";
import { ledgerTotalCases } from "./ledger-total-cases.ts";
import { limitScenes } from "./limit-scenes.ts";
import { T, type Limits } from "./limits-kit.ts";
import { recordCases } from "./record-cases.ts";
import { strikeCases, strikeWindowCases } from "./strike-cases.ts";

/** The `describe` and `it` of whatever runs the tests: vitest, jest, `node:test`. */
export interface ContractRunner {
  readonly describe: (name: string, fn: () => void) => unknown;
  readonly it: (name: string, fn: () => Promise<void>) => unknown;
}

export type ContractPart = "limits" | "strikes" | "records" | "ledger";

export interface StoreContractOptions<P extends ContractPart = ContractPart> {
  /** Begins the names of the cases. Default: `store`. */
  readonly name?: string;
  /** Which parts of the store are held to it. Default: all four. */
  readonly parts?: readonly P[];
  /** The strikes run out by a server's clock, which no test can move: the cases that say exactly when are left out. Default: false. */
  readonly strikesOnServerClock?: boolean;
}

/**
 * Registers one test for each promise that a store makes. `make` opens an empty store on the given clock; the contract calls `ready()` and
 * `close()`. The clock moves only when a case says so, and not always forward. Assertions are those of `node:assert/strict`.
 *
 * @example
 * import { describe, it } from "vitest";
 * storeContract({ describe, it }, (clock) => myStore({ clock }));
 * // A store of records and ledger alone:
 * storeContract({ describe, it }, (clock) => myLedgerStore({ clock }), { parts: ["records", "ledger"] });
 */
export function storeContract(runner: ContractRunner, make: (clock: TestClock) => MaybePromise<Store>, options?: StoreContractOptions): void;
export function storeContract(
  runner: ContractRunner,
  make: (clock: TestClock) => MaybePromise<LedgerStore>,
  options: StoreContractOptions<"records" | "ledger"> & { readonly parts: readonly ("records" | "ledger")[] },
): void;
export function storeContract(
  { describe, it }: ContractRunner,
  make: (clock: TestClock) => MaybePromise<LedgerStore>,
  { name = "store", parts = ["limits", "strikes", "records", "ledger"], strikesOnServerClock = false }: StoreContractOptions = {},
): void {
  // Which of its parts there are is what `parts` says.
  const open = make as (clock: TestClock) => MaybePromise<Store>;

  function register(part: keyof Store, cases: readonly ContractCase[], startMs = AT): void {
    describe(`${name}: ${part}`, () => {
      for (const { name: what, run } of cases) it(what, () => onEmptyStore(open, part, startMs, run));
    });
  }

  register("ready", [calledAgain]);
  if (parts.includes("limits")) register("limits", limitCases, T);
  if (parts.includes("strikes")) register("strikes", strikesOnServerClock ? strikeCases : [...strikeCases, ...strikeWindowCases]);
  if (parts.includes("records")) register("records", recordCases);
  if (parts.includes("ledger")) register("ledger", [...ledgerCases, ...ledgerTotalCases]);
}

const calledAgain: ContractCase = {
  name: "may be called again, and close too",
  async run(store) {
    await Promise.all([store.ready(), store.ready()]);
    await store.close();
    await Promise.all([store.close(), store.close()]);
  },
};

const limitCases: readonly ContractCase[] = limitScenes.map(({ name, run }) => ({ name, run: (store, clock) => run(limitsOf(store, clock)) }));

function limitsOf({ limits: store }: Store, clock: TestClock): Limits {
  const limits: Limits = {
    store,
    at(ms) {
      clock.jump(T + ms - clock.now());
      return limits;
    },
    now: () => clock.now(),
  };
  return limits;
}

async function onEmptyStore(
  make: (clock: TestClock) => MaybePromise<Store>,
  part: keyof Store,
  startMs: number,
  run: (store: Store, clock: TestClock) => Promise<void>,
): Promise<void> {
  const clock = testClock({ now: startMs });
  const store = await make(clock);
  try {
    if (store[part] === undefined) throw new Error(`the store has no ${part}: name the parts that it has, e.g. parts: ["records", "ledger"]`);
    await store.ready();
    await run(store, clock);
  } catch (error) {
    // What failed first is what matters.
    await Promise.resolve(store.close()).catch(() => {});
    throw error;
  }
  await store.close();
}
