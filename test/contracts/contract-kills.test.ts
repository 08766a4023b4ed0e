import { describe, expect, it } from "vitest";
import { limitEngine } from "../../src/limits/engine.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { mutants } from "../limits/mutants.ts";
import { verdicts } from "./contract-kit.ts";
import { storeMutants } from "./store-mutants.ts";

/*
 * Is the contract worth anything? Each mutant is the memory store with one mistake. The case that is about it must fail, and in the end no case
 * may be left that no mistake has failed.
 */

const failed = (outcome: ReadonlyMap<string, Error | undefined>): readonly string[] =>
  [...outcome].filter(([, problem]) => problem !== undefined).map(([name]) => name);

describe("the contract notices", () => {
  const killed = new Set<string>();
  let all: readonly string[] = [];

  it("nothing in the store itself", async () => {
    const outcome = await verdicts((clock) => memoryStore({ clock }));
    expect(failed(outcome)).toEqual([]);
    all = [...outcome.keys()];
  });

  it.each(storeMutants.map((mutant) => [`${mutant.part}: ${mutant.bug}`, mutant] as const))("%s", async (_bug, { part, noticedBy, change }) => {
    const outcome = await verdicts(
      (clock) => {
        const store = memoryStore({ clock });
        return { ...store, ...change(store, clock) };
      },
      [part],
    );
    const names = failed(outcome);
    for (const name of names) killed.add(name);
    expect(names.filter((name) => name.startsWith(`kept: ${part}: `) && name.includes(noticedBy))).toHaveLength(1);
  });

  it("a store that can be closed only once", async () => {
    const outcome = await verdicts((clock) => {
      let isClosed = false;
      return {
        ...memoryStore({ clock }),
        close() {
          if (isClosed) throw new Error("closed twice");
          isClosed = true;
        },
      };
    }, []);
    expect(failed(outcome)).toEqual(["kept: ready: may be called again, and close too"]);
    killed.add("kept: ready: may be called again, and close too");
  });

  it("a store that lacks a part, and says which it may name", async () => {
    const outcome = await verdicts((clock) => ({ ...memoryStore({ clock }), limits: undefined as never }), ["limits"]);
    expect([...outcome.values()].filter((problem) => problem?.message.includes('parts: ["records", "ledger"]')).length).toBe(outcome.size - 1);
  });

  it.each(mutants.filter(({ blind }) => blind !== "vectors").map(({ bug, parts }) => [bug, parts] as const))(
    "in the limits: %s",
    async (_bug, parts) => {
      const outcome = await verdicts(
        (clock) => {
          const { kinds, backend = (same) => same, store = (same) => same } = parts();
          return { ...memoryStore({ clock }), limits: store(limitEngine(backend(new MemoryLimits(clock, 1000)), kinds)) };
        },
        ["limits"],
      );
      expect(failed(outcome).length).toBeGreaterThan(0);
      for (const name of failed(outcome)) killed.add(name);
    },
  );

  it("and no case is idle: each has noticed something", () => {
    expect(all.filter((name) => !killed.has(name))).toEqual([]);
  });
});
