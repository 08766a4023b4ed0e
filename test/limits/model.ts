import fc from "fast-check";
import { UNITS, type Charge, type Rule, type Unit } from "../../src/core/store.ts";
import { LimitOracle } from "../helpers/limit-oracle.ts";
import { DAY, K, type Harness, type MakeHarness } from "./harness.ts";

/*
 * Random histories on a store and on the oracle, side by side. After each command both must have given the same answer and stand the same.
 */

const SCOPES = 5;
const OPS = 8;
/** Enough to go back in. */
const START_MS = 3 * DAY;

type ScopeKind = "slow" | "fast" | "odd" | "frozen" | "second" | "minute" | "day" | "places";

type Command =
  | {
      readonly verb: "reserve";
      readonly op: number;
      readonly mask: number;
      readonly amounts: readonly number[];
      readonly shadow: number;
      readonly ttlMs: number;
      readonly skewMs: number;
    }
  | { readonly verb: "again" }
  | { readonly verb: "settle"; readonly op: number; readonly amounts: readonly (number | null)[] }
  | { readonly verb: "release" | "lapse"; readonly op: number }
  | { readonly verb: "extend"; readonly op: number; readonly ttlMs: number }
  | { readonly verb: "expire" }
  | { readonly verb: "redefine"; readonly scope: number; readonly pick: number }
  | { readonly verb: "tick"; readonly ms: number }
  /** To the ms (or just before it) when something changes: a hold runs out, a cell begins or leaves, the last refusal's wait is over, midnight. */
  | { readonly verb: "edge"; readonly edge: "expiry" | "cell" | "wait" | "midnight"; readonly op: number; readonly early: 0 | 1 };

const op = fc.nat(OPS - 1);
const amount = fc.oneof(fc.nat(6), fc.nat(60));
const ttlMs = fc.constantFrom(1000, 5000, 61_000, 300_000);

const anyCommand: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.record({
      verb: fc.constant("reserve" as const),
      op,
      mask: fc.integer({ min: 1, max: 2 ** SCOPES - 1 }),
      amounts: fc.array(amount, { minLength: SCOPES, maxLength: SCOPES }),
      shadow: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 0, max: 2 ** SCOPES - 1 })),
      ttlMs,
      skewMs: fc.oneof({ weight: 12, arbitrary: fc.constant(0) }, fc.constantFrom(-2 * DAY, -DAY, -300_000, 300_000, DAY, 2 * DAY)),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ verb: "again" as const }) },
  {
    weight: 4,
    arbitrary: fc.record({
      verb: fc.constant("settle" as const),
      op,
      amounts: fc.array(fc.option(amount, { freq: 4 }), { minLength: SCOPES, maxLength: SCOPES }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: fc.constantFrom("release" as const, "lapse" as const), op }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant("extend" as const), op, ttlMs }) },
  { weight: 1, arbitrary: fc.constant({ verb: "expire" as const }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant("redefine" as const), scope: fc.nat(SCOPES - 1), pick: fc.nat(3) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      verb: fc.constant("tick" as const),
      ms: fc.oneof(
        { weight: 5, arbitrary: fc.constantFrom(1, 7, 39, 40, 333, 999, 1000, 1999, 2000, 5000) },
        { weight: 2, arbitrary: fc.constantFrom(59_999, 60_000, 119_999, 120_000, 400_000) },
        { weight: 1, arbitrary: fc.constantFrom(DAY - 1, DAY, DAY + 120_000) },
        { weight: 2, arbitrary: fc.constantFrom(-1, -500, -5000, -60_000, -60_001, -90_000, -600_000) },
      ),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: fc.constant("edge" as const),
      edge: fc.constantFrom("expiry" as const, "cell" as const, "wait" as const, "wait" as const, "midnight" as const),
      op,
      early: fc.constantFrom(0 as const, 1 as const),
    }),
  },
);

const scopeKind = fc.constantFrom<ScopeKind>("slow", "fast", "odd", "frozen", "second", "minute", "day", "places");

/** The numbers that a limit of a kind may get at run time. Windows of one kind keep their cells: those are in the key. */
function ruleOf(kind: ScopeKind, pick: number, ms: number): Rule {
  switch (kind) {
    case "slow":
      return { kind: "bucket", capacity: [10, 5, 20, 10][pick] as number, n: 1, d: [2000, 2000, 3000, 40][pick] as number };
    case "fast":
      return { kind: "bucket", capacity: [100, 50, 100, 300][pick] as number, n: [3, 7, 0, 22][pick] as number, d: [40, 40, 1, 7][pick] as number };
    case "odd":
      // The largest remainders that a rate allows.
      return {
        kind: "bucket",
        capacity: 60,
        n: [333_333, 22_359, 625, 1][pick] as number,
        d: [1_000_000_000, 193_181_760, 81_000, 4_500_000_000_000_000][pick] as number,
      };
    case "frozen":
      return { kind: "bucket", capacity: [80, 40, 200, 80][pick] as number, n: [0, 0, 0, 1][pick] as number, d: [1, 1, 1, 100][pick] as number };
    case "second":
      return { kind: "sliding", limit: [20, 10, 40, 60][pick] as number, perMs: 1000, cellMs: 333 };
    case "minute":
      return { kind: "sliding", limit: [60, 30, 61, 200][pick] as number, perMs: 60_000, cellMs: 1000 };
    case "day":
      return K([100, 40, 150, 300][pick] as number, ms);
    case "places":
      return { kind: "concurrency", limit: [2, 1, 3, 0][pick] as number };
  }
}

/** What went wrong, if anything did. */
async function diverges(h: Harness, kinds: readonly ScopeKind[], commands: readonly Command[]): Promise<string | undefined> {
  const oracle = new LimitOracle(() => h.now());
  const picks = kinds.map(() => 0);
  let ms = START_MS;
  let waitMs = 0;
  let last: { readonly opId: string; readonly charges: readonly Charge[]; readonly ttlMs: number } | undefined;
  h.at(ms);

  const same = (what: string, ours: unknown, theirs: unknown): string | undefined => {
    const [a, b] = [JSON.stringify(ours), JSON.stringify(theirs)];
    return a === b ? undefined : `${what} at ${ms}: ${a} instead of ${b}`;
  };
  const keyOf = (scope: number): string => `${kinds[scope]}:${scope}`;
  const unitOf = (scope: number): Unit => UNITS[scope] as Unit;
  const opId = (n: number): string => `op${n}`;
  const reserve = async (id: string, charges: readonly Charge[], ttl: number): Promise<string | undefined> => {
    const ours = await h.store.reserve(id, charges, ttl);
    if (ours.kind === "limited") waitMs = ours.worst.waitMs ?? 0;
    return same(`reserve ${id}`, ours, oracle.reserve(id, charges, ttl));
  };

  async function run(command: Command): Promise<string | undefined> {
    switch (command.verb) {
      case "reserve": {
        const charges: Charge[] = [];
        for (let scope = 0; scope < SCOPES; scope += 1) {
          if ((command.mask & (1 << scope)) === 0) continue;
          const kind = kinds[scope] as ScopeKind;
          const rule = ruleOf(kind, picks[scope] as number, ms + command.skewMs);
          const units = kind === "places" ? 1 : (command.amounts[scope] as number);
          charges.push({ key: keyOf(scope), rule, unit: unitOf(scope), amount: units, enforce: (command.shadow & (1 << scope)) === 0 });
        }
        last = { opId: opId(command.op), charges, ttlMs: command.ttlMs };
        return reserve(last.opId, charges, command.ttlMs);
      }
      case "again":
        return last && (await reserve(last.opId, [...last.charges], last.ttlMs));
      case "settle": {
        const actual: Partial<Record<Unit, number>> = {};
        command.amounts.forEach((units, scope) => {
          if (units !== null) actual[unitOf(scope)] = units;
        });
        return same(`settle ${command.op}`, await h.store.settle(opId(command.op), actual), oracle.settle(opId(command.op), actual));
      }
      case "release":
        return same(`release ${command.op}`, await h.store.release(opId(command.op)), oracle.release(opId(command.op)));
      case "lapse":
        return same(`lapse ${command.op}`, await h.store.lapse(opId(command.op)), oracle.lapse(opId(command.op)));
      case "extend":
        return same(`extend ${command.op}`, await h.store.extend(opId(command.op), command.ttlMs), oracle.extend(opId(command.op), command.ttlMs));
      case "expire": {
        const byId = (a: { readonly opId: string }, b: { readonly opId: string }): number => (a.opId < b.opId ? -1 : 1);
        return same("expire", [...(await h.store.expire(1000))].sort(byId), oracle.expire().sort(byId));
      }
      case "redefine":
        picks[command.scope] = command.pick;
        return undefined;
      case "tick":
        ms = Math.max(0, ms + command.ms);
        break;
      case "edge": {
        const now = h.now();
        const expiry = oracle.expiryOf(opId(command.op)) ?? now;
        const to = { expiry, cell: Math.ceil((now + 1) / 1000) * 1000, wait: now + waitMs, midnight: Math.ceil((now + 1) / DAY) * DAY }[command.edge];
        ms += Math.min(Math.max(to - command.early - now, 0), 3 * DAY);
        break;
      }
    }
    h.at(ms);
    return undefined;
  }

  for (const [i, command] of commands.entries()) {
    const limits = kinds.map((kind, scope) => ({ key: keyOf(scope), rule: ruleOf(kind, picks[scope] as number, ms) }));
    const problem = (await run(command)) ?? same("peek", await h.store.peek(limits), oracle.peek(limits));
    if (problem !== undefined) return `command ${i} (${JSON.stringify(command)}): ${problem}`;
  }
  return undefined;
}

export interface Effort {
  readonly runs: number;
  readonly commands: number;
  readonly seed?: number;
}

/** Throws with the smallest history on which the store and the oracle differ. */
export async function compareWithOracle(make: MakeHarness, { runs, commands, seed }: Effort): Promise<void> {
  const history = fc.record({
    kinds: fc.array(scopeKind, { minLength: SCOPES, maxLength: SCOPES }),
    commands: fc.array(anyCommand, { minLength: commands, maxLength: commands, size: "max" }),
  });
  const property = fc.asyncProperty(history, async (drawn) => {
    const h = await make();
    try {
      const problem = await diverges(h, drawn.kinds, drawn.commands);
      if (problem !== undefined) throw new Error(problem);
    } finally {
      await h.close();
    }
  });
  await fc.assert(property, { numRuns: runs, ...(seed === undefined ? {} : { seed }), endOnFailure: true });
}
