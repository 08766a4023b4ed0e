import { describe, it } from "vitest";
import { defineStore, type StoreDefinition } from "../../src/stores/define-store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import type { TestClock } from "../../src/testing/clock.ts";
import { storeContract } from "../../src/testing/store-contract/store-contract.ts";
import { Rows } from "../limits/harness.ts";

function over(clock: TestClock, change: (transact: StoreDefinition["transact"]) => StoreDefinition["transact"] = (same) => same) {
  const { records, strikes, ledger } = memoryStore({ clock });
  return defineStore({ shared: false, records, strikes, ledger, transact: change(new Rows(clock.now).transact) });
}

storeContract({ describe, it }, (clock) => over(clock), { name: "a store of one's own" });

/** As databases do under load: what was decided first is thrown away, and decided again on what is there by then. */
const repeating =
  (transact: StoreDefinition["transact"]): StoreDefinition["transact"] =>
  async (keys, change) => {
    await transact(keys, (states, now) => {
      change(
        states.map(() => undefined),
        now - 5000,
      );
      change(states, now);
      return [];
    });
    await transact(keys, change);
  };

storeContract({ describe, it }, (clock) => over(clock, repeating), { name: "a store that repeats its transactions", parts: ["limits"] });
