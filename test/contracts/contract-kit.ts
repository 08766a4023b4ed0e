import type { Store } from "../../src/core/store.ts";
import type { MaybePromise } from "../../src/core/time.ts";
import type { TestClock } from "../../src/testing/clock.ts";
import { storeContract, type ContractPart } from "../../src/testing/store-contract/store-contract.ts";

/** Registers the contract with a runner that only takes notes, and runs the cases. Returns their names, and why they failed if they did. */
export async function verdicts(
  make: (clock: TestClock) => MaybePromise<Store>,
  parts: readonly ContractPart[] = ["limits", "strikes", "records", "ledger"],
): Promise<ReadonlyMap<string, Error | undefined>> {
  const cases: (readonly [name: string, run: () => Promise<void>])[] = [];
  let group = "";
  const runner = {
    describe(name: string, fn: () => void): void {
      group = name;
      fn();
    },
    it: (name: string, run: () => Promise<void>): void => void cases.push([`${group}: ${name}`, run]),
  };
  storeContract(runner, make, { name: "kept", parts });
  const endings = await Promise.allSettled(cases.map(async ([, run]) => await run()));
  return new Map(
    endings.map((ending, i) => [(cases[i] as (typeof cases)[0])[0], ending.status === "rejected" ? (ending.reason as Error) : undefined]),
  );
}
