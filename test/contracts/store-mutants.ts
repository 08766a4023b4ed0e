import { GuardError } from "../../src/core/errors.ts";
import type { Charge, Ledger, LimitStore, RecordStore, Rule, Store, StrikeStore } from "../../src/core/store.ts";
import type { TestClock } from "../../src/testing/clock.ts";
import type { ContractPart } from "../../src/testing/store-contract/store-contract.ts";

/** A good store with one mistake, and the case that must notice it (others may too). */
export interface StoreMutant {
  readonly bug: string;
  readonly part: ContractPart;
  /** A part of its name. */
  readonly noticedBy: string;
  change(store: Store, clock: TestClock): Partial<Store>;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function limits(bug: string, noticedBy: string, change: (limits: LimitStore, clock: TestClock) => Partial<LimitStore>): StoreMutant {
  return { bug, part: "limits", noticedBy, change: (store, clock) => ({ limits: { ...store.limits, ...change(store.limits, clock) } }) };
}
function strikes(bug: string, noticedBy: string, change: (strikes: StrikeStore, clock: TestClock) => Partial<StrikeStore>): StoreMutant {
  return { bug, part: "strikes", noticedBy, change: (store, clock) => ({ strikes: { ...store.strikes, ...change(store.strikes, clock) } }) };
}
function records(bug: string, noticedBy: string, change: (records: RecordStore, clock: TestClock) => Partial<RecordStore>): StoreMutant {
  return { bug, part: "records", noticedBy, change: (store, clock) => ({ records: { ...store.records, ...change(store.records, clock) } }) };
}
function ledger(bug: string, noticedBy: string, change: (ledger: Ledger, clock: TestClock) => Partial<Ledger>): StoreMutant {
  return { bug, part: "ledger", noticedBy, change: (store, clock) => ({ ledger: { ...store.ledger, ...change(store.ledger, clock) } }) };
}

let unique = 0;
const wide = (rule: Rule): Rule => (rule.kind === "bucket" ? { ...rule, capacity: 4e15 } : { ...rule, limit: 4e15 });

const limitMutants: readonly StoreMutant[] = [
  limits("reads, thinks and then writes", "of 200 requests at once", ({ peek, reserve }) => ({
    async reserve(opId, charges, ttlMs) {
      const before = await peek(charges);
      await turn();
      const fits = charges.every(({ amount }, i) => (before[i]?.available ?? 0) >= amount);
      return await reserve(opId, fits ? charges.map((one) => ({ ...one, rule: wide(one.rule) })) : charges, ttlMs);
    },
  })),
  limits("charges each delivery of a reserve", "each verb sent many times", ({ reserve }) => ({
    reserve: (opId, charges, ttlMs) => reserve(`${opId}-${(unique += 1)}`, charges, ttlMs),
  })),
  limits("looks for the hold before it waits for it", "a release that races its reserve", ({ reserve, release, lapse }) => {
    const known = new Set<string>();
    return {
      async reserve(opId, charges, ttlMs) {
        await turn();
        known.add(opId);
        return await reserve(opId, charges, ttlMs);
      },
      release: (opId) => (known.has(opId) ? release(opId) : "unknown"),
      lapse,
    };
  }),
  limits("reports what another sweeper has just reported", "two sweepers at once", ({ expire }) => {
    let found: Awaited<ReturnType<LimitStore["expire"]>> = [];
    return {
      async expire(most) {
        const now = await expire(most);
        if (now.length > 0) found = now;
        await turn();
        return found;
      },
    };
  }),
  limits("charges the limits that would have passed", "a refusal by one of five limits", ({ reserve }) => ({
    async reserve(opId, charges, ttlMs) {
      const result = await reserve(opId, charges, ttlMs);
      const passing = result.kind === "limited" ? charges.filter((_, i) => !result.failing.some(({ index }) => index === i)) : [];
      if (passing.length > 0) await reserve(`rest-${(unique += 1)}`, passing, ttlMs);
      return result;
    },
  })),
  limits("takes an absent unit for zero", "settle takes actual amounts per unit", ({ settle }) => ({
    settle: (opId, actual) => settle(opId, { requests: 0, tokens: 0, usd: 0, ...actual }),
  })),
  limits("refuses to go into debt", "settle charges more than was held", ({ settle }) => ({
    settle: (opId, actual) => settle(opId, actual.tokens === undefined ? actual : { ...actual, tokens: Math.min(actual.tokens, 60) }),
  })),
  limits("gives back what ran out", "stays charged as estimated", ({ reserve, release }, clock) => {
    const ends = new Map<string, number>();
    return {
      reserve(opId, charges, ttlMs) {
        ends.set(opId, clock.now() + ttlMs);
        return reserve(opId, charges, ttlMs);
      },
      async settle(opId) {
        return await release((ends.get(opId) ?? 0) > clock.now() ? opId : "gone");
      },
    };
  }),
  limits("forgets a finished opId after a minute", "a finished opId is remembered", ({ reserve, settle, release }, clock) => {
    const ended = new Map<string, number>();
    const end = (opId: string): void => void (ended.has(opId) || ended.set(opId, clock.now()));
    return {
      reserve: (opId, charges, ttlMs) => reserve(clock.now() - (ended.get(opId) ?? Infinity) > 60_000 ? `${opId}'` : opId, charges, ttlMs),
      settle: (opId, actual) => (end(opId), settle(opId, actual)),
      release: (opId) => (end(opId), release(opId)),
    };
  }),
  limits("compares the numbers of a repeated reserve too", "repeated with new numbers", ({ reserve }) => {
    const seen = new Map<string, string>();
    return {
      reserve(opId, charges, ttlMs) {
        const text = seen.get(opId);
        seen.set(opId, text ?? JSON.stringify(charges));
        return text === undefined || text === JSON.stringify(charges) ? reserve(opId, charges, ttlMs) : { kind: "conflict" };
      },
    };
  }),
  limits("extends by shortening", "extend keeps a place", ({ extend, lapse }) => ({
    extend: async (opId, ttlMs) => (await extend(opId, ttlMs)) && (ttlMs > 1 || (await lapse(opId)) === "applied"),
  })),
  limits("extends anything", "extend knows only what is held", () => ({ extend: () => true })),
  limits("lapses by giving everything back", "lapse frees the place", ({ release }) => ({ lapse: (opId) => release(opId) })),
  limits("leaves no tombstone behind a lapse", "lapse leaves a tombstone", ({ extend, lapse }) => ({
    lapse: async (opId) => ((await extend(opId, 1)) ? lapse(opId) : "unknown"),
  })),
  limits("sweeps everything at once", "expire reports each hold once", ({ expire }) => ({ expire: () => expire(1_000_000) })),
  limits("closes strict limits without a reason", "a strict charge is like any other", ({ reserve }) => ({
    reserve(opId, charges, ttlMs) {
      if (charges.some(({ strict }) => strict === true)) throw new GuardError("store_unavailable", "the counters are being rebuilt");
      return reserve(opId, charges, ttlMs);
    },
  })),
  limits("refuses what costs nothing", "a reservation without charges", ({ reserve }) => ({
    reserve: (opId, charges, ttlMs) => (charges.length === 0 ? { kind: "conflict" } : reserve(opId, charges, ttlMs)),
  })),
  limits("tells a refused caller nothing", "verdicts and peek tell", ({ reserve }) => ({
    async reserve(opId, charges, ttlMs) {
      const result = await reserve(opId, charges, ttlMs);
      return result.kind === "limited" ? { ...result, standings: [] } : result;
    },
  })),
  limits("peeks by reserving nothing", "peek changes nothing", ({ reserve, peek }) => ({
    async peek(asked) {
      for (const { key, rule } of asked) {
        const nothing: Charge = { key, rule, unit: "tokens", amount: rule.kind === "concurrency" ? 1 : 0, enforce: false };
        await reserve(`peek-${(unique += 1)}`, [nothing], 1000);
      }
      return await peek(asked);
    },
  })),
  limits("writes figures as %.14g", "vector 21", ({ reserve }) => ({
    async reserve(opId, charges, ttlMs) {
      const result = await reserve(opId, charges, ttlMs);
      if (result.kind !== "allowed") return result;
      return { ...result, standings: result.standings.map((one) => ({ ...one, available: Number(one.available.toPrecision(14)) })) };
    },
  })),
  limits("rounds waits that are long", "a wait beyond 9e15 ms", ({ reserve }) => ({
    async reserve(opId, charges, ttlMs) {
      const result = await reserve(opId, charges, ttlMs);
      if (result.kind !== "limited") return result;
      return { ...result, worst: { ...result.worst, waitMs: result.worst.waitMs === null ? null : Math.min(result.worst.waitMs, 2 ** 31) } };
    },
  })),
  limits("counts in 32 bits", "the fastest rate", ({ peek }) => ({
    peek: async (asked) => (await peek(asked)).map((one) => ({ ...one, available: one.available > 2 ** 53 / 3 ? one.available | 0 : one.available })),
  })),
  limits("tells the caller's own time", "the store's own time is told", ({ reserve }) => ({
    async reserve(opId, charges, ttlMs) {
      const result = await reserve(opId, charges, ttlMs);
      const rule = charges[0]?.rule;
      return result.kind === "skew" && rule?.kind === "calendar" ? { kind: "skew", now: rule.bounds[1] } : result;
    },
  })),
];

const strikeMutants: readonly StoreMutant[] = [
  strikes("counts all keys as one", "are counted by key", ({ strike }) => ({ strike: (_key, windowMs) => strike("all", windowMs) })),
  strikes("reads, thinks and then writes", "given at the same time", () => {
    const counts = new Map<string, number>();
    return {
      async strike(key) {
        const count = (counts.get(key) ?? 0) + 1;
        await turn();
        counts.set(key, count);
        return count;
      },
    };
  }),
  strikes("clears nothing", "are gone when they are cleared", () => ({ clear: () => undefined })),
  strikes("prolongs the window with each strike", "stand for exactly the window", (_strikes, clock) => {
    const counts = new Map<string, { readonly count: number; readonly endsAt: number }>();
    return {
      strike(key, windowMs) {
        const known = counts.get(key);
        const count = known !== undefined && known.endsAt > clock.now() ? known.count + 1 : 1;
        counts.set(key, { count, endsAt: clock.now() + windowMs });
        return count;
      },
    };
  }),
  strikes("keeps the first window of a key for ever", "begin a window of their own", ({ strike }) => {
    const windows = new Map<string, number>();
    return {
      strike(key, windowMs) {
        const first = windows.get(key) ?? windowMs;
        windows.set(key, first);
        return strike(key, first);
      },
    };
  }),
];

const recordMutants: readonly StoreMutant[] = [
  records("keeps text where JSON was", "keep JSON values", ({ put }) => ({
    put: (key, value, how) => put(key, value === null ? "null" : value, how),
  })),
  records("hands out the caller's own object", "are not shared", ({ put, get }) => {
    const own = new Map<string, unknown>();
    return {
      put: (key, value, how) => (own.set(key, value), put(key, value, how)),
      async get(key) {
        const found = await get(key);
        return found && { ...found, value: own.get(key) };
      },
    };
  }),
  records("knows no ifAbsent", "ifAbsent writes once", ({ put }) => ({ put: (key, value, how) => put(key, value, { ...how, ifAbsent: false }) })),
  records("reads, thinks and then writes", "exactly one of many at once", ({ get, put }) => ({
    async put(key, value, { ifAbsent, ...how } = {}) {
      if (ifAbsent === true && (await get(key)) !== undefined) return undefined;
      await turn();
      return await put(key, value, how);
    },
  })),
  records("knows no ifVersion", "ifVersion writes over that version", ({ put }) => ({
    put: (key, value, { ttlMs, ifAbsent = false } = {}) => put(key, value, { ifAbsent, ...(ttlMs === undefined ? {} : { ttlMs }) }),
  })),
  records("keeps the ttl of the write before", "forgotten when their ttl is over", ({ put }) => {
    const ttls = new Map<string, number>();
    return {
      put(key, value, how = {}) {
        const ttlMs = how.ttlMs ?? ttls.get(key);
        if (ttlMs !== undefined) ttls.set(key, ttlMs);
        return put(key, value, { ...how, ...(ttlMs === undefined ? {} : { ttlMs }) });
      },
    };
  }),
  records("deletes with success, always", "delete says whether", ({ delete: remove }) => ({
    async delete(key) {
      await remove(key);
      return true;
    },
  })),
  records("takes a prefix for a pattern", "a prefix is not a pattern", ({ list }) => ({
    async list(prefix) {
      const pattern = new RegExp(
        `^${prefix
          .replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")
          .replaceAll("_", ".")
          .replaceAll("%", ".*")}`,
      );
      return (await list("")).filter(({ key }) => pattern.test(key));
    },
  })),
  records("tells watchers of writes that were refused", "watchers are told of each change", ({ put, get, watch }) => {
    const told: Parameters<RecordStore["watch"]>[1][] = [];
    return {
      async put(key, value, how) {
        const version = await put(key, value, how);
        const record = await get(key);
        if (version === undefined) for (const fn of told) fn(key, record);
        return version;
      },
      watch: (prefix, fn) => (told.push(fn), watch(prefix, fn)),
    };
  }),
  records("lets a watcher's error through", "a watcher that throws", ({ put }) => {
    const told: Parameters<RecordStore["watch"]>[1][] = [];
    return {
      async put(key, value, how) {
        const version = await put(key, value, how);
        for (const fn of told) fn(key, { key, value, version: version ?? 0 });
        return version;
      },
      watch: (_prefix, fn) => (told.push(fn), () => undefined),
    };
  }),
  records("never stops a watcher", "a watcher that has stopped", ({ watch }) => ({
    watch: (prefix, fn) => (watch(prefix, fn), () => undefined),
  })),
];

const ledgerMutants: readonly StoreMutant[] = [
  ledger("finds rows by their own id only", "an intent is an open row", ({ get }) => ({
    get: async (id) => ((await get(id))?.id === id ? await get(id) : undefined),
  })),
  ledger("loses a field", "every field as given", ({ close }) => ({
    close: (row) => close(row.usage?.reportedUsd === undefined ? row : { ...row, usage: { ...row.usage, reportedUsd: 0 } }),
  })),
  ledger("takes nothing for zero", "nothing, zero and unknown", ({ close }) => ({
    close: (row) => close({ ...row, billedNanoUsd: row.billedNanoUsd ?? 0 }),
  })),
  ledger("opens a finished request again", "an id that is repeated", ({ intent, close, list }) => {
    const open = new Set<string>();
    return {
      intent(row) {
        open.add(row.id);
        return intent(row);
      },
      close(row) {
        open.delete(row.id);
        close(row);
      },
      list: async (filter) => (await list(filter)).map((row) => (open.has(row.id) ? { ...row, state: "intent" } : row)),
    };
  }),
  ledger("drops rows without an intent", "needs no intent", ({ intent, close }) => {
    const known = new Set<string>();
    return { intent: (row) => (known.add(row.id), intent(row)), close: (row) => (known.has(row.id) ? close(row) : undefined) };
  }),
  ledger("ends all intents of a tick with the first", "each ends by itself", ({ close, list }) => {
    let isOver = false;
    return {
      close(row) {
        isOver = true;
        close(row);
      },
      list: async (filter) => (await list(filter)).filter(({ state }) => state !== "intent" || !isOver),
    };
  }),
  ledger("shows the first attempt of a request", "several attempts", ({ intent }) => {
    const known = new Set<string>();
    return {
      intent(row) {
        if (known.has(row.id)) return undefined;
        known.add(row.id);
        return intent(row);
      },
    };
  }),
  ledger("finds the oldest of several requests", "the newest is found", ({ list }) => ({
    get: async (id) => (await list({})).findLast((row) => row.id === id || row.requestId === id),
  })),
  ledger("scans finished rows only", "a scan gives every row from a time on", ({ scan }) => ({
    async *scan(fromMs) {
      for await (const page of scan(fromMs)) yield page.filter(({ state }) => state !== "intent");
    },
  })),
  ledger("scans what was committed a while ago", "a scan sees what was closed just before", (own) => {
    const queued: Parameters<Ledger["close"]>[0][] = [];
    return {
      close: (row) => void queued.push(row),
      flush: () => queued.splice(0).forEach((row) => own.close(row)),
    };
  }),
  ledger("reads all rows at once", "in pages", ({ scan }) => ({
    async *scan(fromMs) {
      const all = [];
      for await (const page of scan(fromMs)) all.push(...page);
      yield all;
    },
  })),
  ledger("looks for open requests after the finished ones", "a request that ends while it is scanned", ({ scan, list }) => ({
    async *scan(fromMs) {
      for await (const page of scan(fromMs)) {
        const finished = page.filter(({ state }) => state !== "intent");
        if (finished.length > 0) yield finished;
      }
      yield await list({ from: fromMs, state: "intent" });
    },
  })),
  ledger("is complete from the next hour on", "completeSince", ({ completeSince }, clock) => ({
    completeSince: async () => Math.max(await completeSince(), clock.now() + 3_600_000),
  })),
  ledger("lists what it wrote last first", "listed newest first", ({ list }) => ({
    list: async ({ limit, ...filter }) => (await list(filter)).toReversed().slice(0, limit),
  })),
  ledger("counts what is open as nothing", "totals are the sums", ({ totals }) => ({
    totals: async (filter, groupBy) => (await totals(filter, groupBy)).map((one) => ({ ...one, requests: Math.min(one.requests, 1) })),
  })),
  ledger("adds money in double precision", "money is added exactly", ({ totals }) => ({
    totals: async (filter, groupBy) => (await totals(filter, groupBy)).map((one) => ({ ...one, billedNanoUsd: BigInt(Number(one.billedNanoUsd)) })),
  })),
];

export const storeMutants: readonly StoreMutant[] = [...limitMutants, ...strikeMutants, ...recordMutants, ...ledgerMutants];
