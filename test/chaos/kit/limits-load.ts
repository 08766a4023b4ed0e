// Many callers at once on the bare limits of a store: hold, then give back or settle, with mixed costs, over limits that they share.
import type { Amounts, BucketRule, Charge, LimitStore, ReserveResult } from "../../../src/core/store.ts";
import { random, type Random } from "./random.ts";

export interface LoadPlan {
  readonly seed: number;
  readonly workers: number;
  readonly durationMs: number;
  readonly users: number;
  readonly teams: number;
  readonly rules: { readonly user: BucketRule; readonly team: BucketRule; readonly global: BucketRule };
  /** This part of the calls is of user 0. */
  readonly hotPart: number;
}

export interface LoadReport {
  readonly allowed: number;
  readonly refused: number;
  /** Calls that the store did not answer; they were repeated with the same opId until it did. */
  readonly failed: number;
  /** Final amounts by counter. */
  readonly spent: Readonly<Record<string, number>>;
  /** From the beginning to the last answer to a reserve: so long there was demand. */
  readonly elapsedMs: number;
  /** Of each verb that was answered. */
  readonly latenciesMs: readonly number[];
}

export const userKey = (user: number): string => `b:chaos-user:u${user}`;
export const teamKey = (team: number): string => `b:chaos-team:t${team}`;
export const GLOBAL_KEY = "b:chaos-global:all";

const COSTS = [1, 3, 10, 40, 120, 250];
const TTL_MS = 120_000;
/** A refused caller comes back after what it was told, at most after this. */
const PATIENCE_MS = 20;

function chargesOf(plan: Pick<LoadPlan, "rules" | "teams">, user: number, amount: number): readonly Charge[] {
  const of = (key: string, rule: BucketRule): Charge => ({ key, rule, unit: "tokens", amount, enforce: true });
  return [of(userKey(user), plan.rules.user), of(teamKey(user % plan.teams), plan.rules.team), of(GLOBAL_KEY, plan.rules.global)];
}

/** Calls a verb until it is answered: what a caller must do that lost a reply. */
export async function untilAnswered<T>(verb: () => T | Promise<T>, failed: (error: unknown) => void): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await verb();
    } catch (error) {
      failed(error);
      if (attempt === 1_000) throw error;
      await pause(Math.min(5 * attempt, 100));
    }
  }
}

export const pause = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

export async function limitsLoad(limits: LimitStore, plan: LoadPlan): Promise<LoadReport> {
  const spent: Record<string, number> = {};
  const latenciesMs: number[] = [];
  let allowed = 0;
  let refused = 0;
  let failed = 0;
  const startedMs = performance.now();
  const until = startedMs + plan.durationMs;
  let elapsedMs = 0;
  const timed = async <T>(verb: () => T | Promise<T>): Promise<T> =>
    untilAnswered(
      async () => {
        const from = performance.now();
        const answer = await verb();
        latenciesMs.push(performance.now() - from);
        return answer;
      },
      () => void (failed += 1),
    );

  async function worker(index: number, chance: Random): Promise<void> {
    for (let turn = 0; performance.now() < until; turn += 1) {
      const user = chance.chance(plan.hotPart) ? 0 : chance.between(0, plan.users - 1);
      const amount = chance.pick(COSTS);
      const charges = chargesOf(plan, user, amount);
      const opId = `${process.pid}.${plan.seed}.${index}.${turn}`;
      const answer: ReserveResult = await timed(() => limits.reserve(opId, charges, TTL_MS));
      elapsedMs = performance.now() - startedMs;
      if (answer.kind === "limited") {
        refused += 1;
        await pause(Math.min(answer.worst.waitMs ?? PATIENCE_MS, PATIENCE_MS));
        continue;
      }
      if (answer.kind !== "allowed") throw new Error(`a reserve of a new opId was answered ${answer.kind}`);
      allowed += 1;
      if (chance.chance(0.3)) await pause(chance.between(1, 5));
      // Never more than was held: a debt may pass a limit, and here none may be passed.
      const actual = chance.chance(0.2) ? 0 : chance.chance(0.5) ? amount : chance.between(0, amount);
      if (actual === 0 && chance.chance(0.5)) await timed(() => limits.release(opId));
      else await timed(() => limits.settle(opId, { tokens: actual } satisfies Amounts));
      for (const { key } of charges) spent[key] = (spent[key] ?? 0) + actual;
    }
  }

  const chance = random(plan.seed);
  await Promise.all(Array.from({ length: plan.workers }, (_, index) => worker(index, random(Math.floor(chance.next() * 2 ** 32)))));
  return { allowed, refused, failed, spent, elapsedMs, latenciesMs };
}
