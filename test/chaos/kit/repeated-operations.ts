// Operations as a broken network delivers them: one to five times, in any order, with answers that get lost.
import type { Charge, FinishResult, LimitStore, ReserveResult, Rule } from "../../../src/core/store.ts";
import { pause, untilAnswered } from "./limits-load.ts";
import { random, type Random } from "./random.ts";

export interface RepeatPlan {
  readonly seed: number;
  readonly operations: number;
  readonly atOnce: number;
  /** Stops beginning new ones after so long. */
  readonly durationMs?: number;
  readonly users: number;
}

/** How an operation goes, and so what is charged for it in the end. */
type Fate = "settle" | "release" | "lapse" | "release-first" | "shuffled";

export interface Repeated {
  readonly index: number;
  readonly user: number;
  readonly fate: Fate;
  readonly actual: number;
  /** What its own counter must say in the end: one of these. */
  readonly mayCost: readonly number[];
}

export interface RepeatReport {
  readonly operations: readonly Repeated[];
  readonly deliveries: number;
  readonly failed: number;
  /** Answers that must never be given, in words. */
  readonly problems: readonly string[];
}

const CAPACITY = 4_000_000_000_000_000;
const TTL_MS = 600_000;
const SLOTS = 1_000_000;
const BUCKET: Rule = { kind: "bucket", capacity: CAPACITY, n: 0, d: 1 };
const PARALLEL: Rule = { kind: "concurrency", limit: SLOTS };
const FATES: readonly Fate[] = ["settle", "settle", "settle", "release", "lapse", "release-first", "shuffled"];

const ownKey = (index: number): string => `b:chaos-own:o${index}`;
const userKey = (user: number): string => `b:chaos-user:u${user}`;
const ALL_KEY = "b:chaos-all:all";
const SLOTS_KEY = "c:chaos-slots:all";

function chargesOf(index: number, user: number, amount: number): readonly Charge[] {
  const of = (key: string): Charge => ({ key, rule: BUCKET, unit: "tokens", amount, enforce: true });
  return [of(ownKey(index)), of(userKey(user)), of(ALL_KEY), { key: SLOTS_KEY, rule: PARALLEL, unit: "concurrent", amount: 1, enforce: true }];
}

/** Delivers to whichever of the nodes chance chooses. Resolves when each operation has had a definite answer to everything it needs. */
export async function repeatedOperations(nodes: readonly LimitStore[], plan: RepeatPlan): Promise<RepeatReport> {
  const operations: Repeated[] = [];
  const problems: string[] = [];
  const stragglers: (() => Promise<void>)[] = [];
  let deliveries = 0;
  let failed = 0;
  const until = performance.now() + (plan.durationMs ?? Number.POSITIVE_INFINITY);
  let next = 0;

  /** The answers to several deliveries of one verb; at least one of them is definite. */
  async function delivered<T>(chance: Random, verb: (node: LimitStore) => T | Promise<T>): Promise<T[]> {
    const once = async (): Promise<T> => {
      deliveries += 1;
      return verb(chance.pick(nodes));
    };
    const times = chance.between(1, 5);
    const answers = await Promise.allSettled(
      Array.from({ length: times }, async () => {
        if (chance.chance(0.5)) await pause(chance.between(0, 3));
        return once();
      }),
    );
    const definite = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
    failed += times - definite.length;
    return definite.length > 0 ? definite : [await untilAnswered(once, () => void (failed += 1))];
  }

  async function operation(chance: Random, index: number): Promise<void> {
    const user = chance.between(0, plan.users - 1);
    const fate = chance.pick(FATES);
    const amount = chance.between(0, 5_000);
    const actual = chance.between(0, 8_000);
    const opId = `op${plan.seed}.${index}`;
    const charges = chargesOf(index, user, amount);
    const complain = (what: string): void => void problems.push(`operation ${index} (${fate}): ${what}`);

    const reserve = async (expected: readonly string[]): Promise<void> => {
      const answers: ReserveResult[] = await delivered(chance, (node) => node.reserve(opId, charges, TTL_MS));
      for (const { kind } of answers) if (!expected.includes(kind)) complain(`a reserve was answered ${kind}`);
      const first = answers.filter((answer) => answer.kind === "allowed" && !answer.replayed).length;
      if (first > 1) complain(`${first} reserves were the first`);
    };
    let applied = 0;
    let late = 0;
    const finish = async (verb: (node: LimitStore) => FinishResult | Promise<FinishResult>, expected: readonly FinishResult[]): Promise<void> => {
      for (const answer of await delivered(chance, verb)) {
        if (!expected.includes(answer)) complain(`a finish was answered ${answer}`);
        if (answer === "applied") applied += 1;
        if (answer === "late") late += 1;
      }
      if (applied > 1) complain(`${applied} finishes were applied`);
      if (late > 1) complain(`${late} finishes were late`);
    };
    const settle = (expected: readonly FinishResult[], tokens = actual): Promise<void> => finish((node) => node.settle(opId, { tokens }), expected);
    const release = (expected: readonly FinishResult[]): Promise<void> => finish((node) => node.release(opId), expected);

    switch (fate) {
      case "settle":
        await reserve(["allowed"]);
        await settle(["applied", "done"]);
        break;
      case "release":
        await reserve(["allowed"]);
        await release(["applied", "done"]);
        break;
      case "lapse":
        await reserve(["allowed"]);
        if (!(await delivered(chance, (node) => node.extend(opId, 2 * TTL_MS))).every(Boolean)) complain("an open hold was not prolonged");
        await finish((node) => node.lapse(opId), ["applied", "done"]);
        await settle(["late", "done"]);
        break;
      case "release-first":
        await release(["unknown", "done"]);
        await reserve(["closed"]);
        break;
      case "shuffled":
        await Promise.all(
          chance.shuffled([() => reserve(["allowed", "closed"]), () => settle(["applied", "done", "unknown"])]).map((deliver) => deliver()),
        );
    }
    operations.push({
      index,
      user,
      fate,
      actual,
      mayCost: fate === "settle" || fate === "lapse" ? [actual] : fate === "shuffled" ? [0, actual] : [0],
    });
    // What comes long after the end changes nothing, whatever it says.
    stragglers.push(async () => {
      await reserve(["closed"]);
      await settle(["done"], 8_000);
      await release(["done"]);
    });
    if (stragglers.length > 50) await stragglers.splice(chance.between(0, stragglers.length - 1), 1)[0]?.();
  }

  const chance = random(plan.seed);
  async function worker(own: Random): Promise<void> {
    while (next < plan.operations && performance.now() < until) {
      next += 1;
      await operation(own, next - 1);
    }
  }
  await Promise.all(Array.from({ length: plan.atOnce }, () => worker(random(Math.floor(chance.next() * 2 ** 32)))));
  for (const deliver of stragglers) await deliver();
  return { operations, deliveries, failed, problems };
}

const PEEKED_AT_ONCE = 200;

/** Every counter that does not say what the operations left, in words. */
export async function miscounted(limits: LimitStore, { operations }: RepeatReport): Promise<string[]> {
  const wrong: string[] = [];
  const spentOf = async (keys: readonly string[]): Promise<number[]> => {
    const spent: number[] = [];
    for (let at = 0; at < keys.length; at += PEEKED_AT_ONCE) {
      const some = keys.slice(at, at + PEEKED_AT_ONCE).map((key) => ({ key, rule: BUCKET }));
      for (const { available } of await limits.peek(some)) spent.push(CAPACITY - available);
    }
    return spent;
  };
  const own = await spentOf(operations.map(({ index }) => ownKey(index)));
  const byUser = new Map<number, number>();
  let all = 0;
  for (const [at, { index, user, fate, mayCost }] of operations.entries()) {
    const cost = own[at] as number;
    if (!mayCost.includes(cost)) wrong.push(`operation ${index} (${fate}) cost ${cost}, not ${mayCost.join(" or ")}`);
    byUser.set(user, (byUser.get(user) ?? 0) + cost);
    all += cost;
  }
  const users = [...byUser.keys()];
  for (const [at, spent] of (await spentOf(users.map(userKey))).entries()) {
    const sum = byUser.get(users[at] as number);
    if (spent !== sum) wrong.push(`user ${users[at]}: the counter says ${spent}, the operations ${sum}`);
  }
  const [total] = await spentOf([ALL_KEY]);
  if (total !== all) wrong.push(`all: the counter says ${total}, the operations ${all}`);
  const [slots] = await limits.peek([{ key: SLOTS_KEY, rule: PARALLEL }]);
  if (slots?.available !== SLOTS) wrong.push(`${SLOTS - (slots?.available ?? 0)} slots are held by nobody`);
  return wrong;
}
