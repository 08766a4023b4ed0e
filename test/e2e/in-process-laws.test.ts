// Whatever handlers and jobs do, in whatever order, with a store that fails and clients that leave: nothing is lost, charged twice or left held.
import { randomUUID } from "node:crypto";
import { afterEach, expect, test } from "vitest";
import fc from "fast-check";
import { contextOf, createGuard, memoryStore, type GuardOptions, type QuotaGuard, type RequestQuota, type Store } from "quotaguard";
import { expectConserved, faultyStore, fakeUpstream, type FakeReply, type FaultyStore } from "quotaguard/testing";
import { redisStore } from "quotaguard/stores/redis";
import express, { type Request, type Response as Reply } from "express";
import OpenAI from "openai";
import type { MaybePromise } from "../../src/core/time.ts";
import type { Violation } from "../../src/metering/conservation.ts";
import { ConservationError } from "../../src/testing/conservation/expect-conserved.ts";
import { reservationsOf } from "../../src/testing/conservation/reservations.ts";
import { listen, UPSTREAM_KEY } from "../helpers/app.ts";
import { testServer } from "../setup/test-server.ts";
import { asked, MODEL, OWN_KEY } from "./in-process-kit.ts";

const redis = await testServer("redis");

/** Per user and day: whole programs fit, some do not. */
const MOST_USD = 1;
const LIMITS = [
  { name: "day", scope: "user", unit: "usd", window: { limit: MOST_USD, per: "day" } },
  { name: "tokens", scope: "user", unit: "tokens", bucket: { capacity: 600, refillPerSec: 0 }, estimate: "expected" },
  { name: "calls", scope: "user", unit: "requests", window: { limit: 8, per: "hour" } },
  { name: "places", scope: "user", unit: "concurrent", concurrency: { limit: 3 } },
  { name: "watched", scope: "user", unit: "usd", window: { limit: 0.3, per: "day" }, mode: "shadow" },
  { name: "short", scope: "user", unit: "output_tokens", window: { limit: 200, per: "day" }, whenShort: "shorten" },
] as const satisfies NonNullable<GuardOptions["limits"]>;
type LimitName = (typeof LIMITS)[number]["name"];
/** All that a job or route of so many dollars holds. */
const costs = (usd: number) => ({ usd, tokens: Math.round(usd * 100), inputTokens: 0, outputTokens: Math.round(usd * 50) });

/** What a handler or a job does. */
type Act =
  | { readonly do: "call"; readonly most: number; readonly stream: boolean; readonly as: "self" | "bob" }
  | { readonly do: "half a stream" }
  | { readonly do: "meter"; readonly usd: number }
  | { readonly do: "release" | "throw" | "answer" | "leave" | "wait" }
  | { readonly do: "list files" }
  | { readonly do: "at once"; readonly acts: readonly Act[] }
  | { readonly do: "job"; readonly limits: readonly LimitName[] | null; readonly usd: number | null; readonly acts: readonly Act[] };

interface Entry {
  readonly user: string;
  readonly by: "all" | "growing" | "apart" | "gateway" | "job";
  readonly acts: readonly Act[];
}

interface Scenario {
  readonly entries: readonly Entry[];
  readonly ownKey: boolean;
  readonly replies: readonly number[];
  readonly fault: { readonly fault: "refuses" | "reply lost"; readonly probability: number; readonly policy: "deny" | "local" } | null;
  readonly seed: number;
  readonly isCut: boolean;
}

const limitName = fc.constantFrom<LimitName>("day", "tokens", "calls", "places", "watched", "short");
const { acts } = fc.letrec<{ act: Act; acts: Act[] }>((tie) => ({
  act: fc.oneof(
    { maxDepth: 3, depthSize: "small" },
    {
      weight: 6,
      arbitrary: fc.record<Act & { do: "call" }>({
        do: fc.constant("call"),
        most: fc.constantFrom(2, 20, 90, 5_000),
        stream: fc.boolean(),
        as: fc.constantFrom("self", "self", "self", "bob"),
      }),
    },
    { weight: 1, arbitrary: fc.constant<Act>({ do: "half a stream" }) },
    { weight: 2, arbitrary: fc.record<Act & { do: "meter" }>({ do: fc.constant("meter"), usd: fc.constantFrom(0, 0.01, 0.2) }) },
    {
      weight: 3,
      arbitrary: fc.constantFrom<Act>(...(["release", "throw", "answer", "leave", "wait", "list files"] as const).map((what) => ({ do: what }))),
    },
    { weight: 2, arbitrary: fc.record<Act & { do: "at once" }>({ do: fc.constant("at once"), acts: tie("acts") }) },
    {
      weight: 3,
      arbitrary: fc.record<Act & { do: "job" }>({
        do: fc.constant("job"),
        limits: fc.option(fc.uniqueArray(limitName, { maxLength: 4 })),
        usd: fc.option(fc.constantFrom(0, 0.05, 0.4, 0.9)),
        acts: tie("acts"),
      }),
    },
  ),
  acts: fc.array(tie("act"), { maxLength: 4 }),
}));

const scenarios: fc.Arbitrary<Scenario> = fc.record({
  entries: fc.array(
    fc.record({ user: fc.constantFrom("alice", "bob"), by: fc.constantFrom<Entry["by"]>("all", "growing", "apart", "gateway", "job"), acts }),
    { minLength: 1, maxLength: 5 },
  ),
  ownKey: fc.boolean(),
  replies: fc.array(fc.nat({ max: REPLIES().length - 1 }), { minLength: 1, maxLength: 5 }),
  fault: fc.option(
    fc.record({
      fault: fc.constantFrom("refuses" as const, "reply lost" as const),
      probability: fc.constantFrom(0.1, 0.4),
      policy: fc.constantFrom("deny" as const, "local" as const),
    }),
  ),
  seed: fc.nat({ max: 1_000 }),
  isCut: fc.integer({ min: 0, max: 11 }).map((n) => n === 0),
});

function REPLIES(): readonly FakeReply[] {
  return [
    { text: ["a", " b"] },
    { text: ["a", " b"] },
    { text: ["a", " b", " c"], delayMs: 3 },
    { status: 500 },
    { status: 400 },
    { text: ["a", " b"], fault: { at: "headers", how: "reset" } },
    { text: ["a", " b"], fault: { at: 1, how: "close" } },
  ];
}

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).toReversed()) await end();
});

/** Runs a handler's or a job's program. What fails in it is its own business, except for what it throws itself. */
interface Host {
  readonly guard: QuotaGuard<LimitName>;
  readonly openai: OpenAI;
  readonly forBob: OpenAI;
  readonly url: string;
  /** What hosts have metered, USD. */
  metered: number;
  /** Ids of requests whose hosts metered when it was too late for their rows. */
  readonly late: Set<string>;
}

interface Frame {
  readonly quota: Pick<RequestQuota, "requestId" | "meter" | "release">;
  /** Of its handler's response. */
  readonly end: { isNear: boolean };
  /** Whether it is true that nothing was used. */
  readonly mayRelease: boolean;
  /** Resolves when the response is closed. */
  answer(): MaybePromise<unknown>;
  leave(): void;
}

class Thrown extends Error {}

async function play(host: Host, program: readonly Act[], { quota, ...frame }: Omit<Frame, "mayRelease">): Promise<void> {
  const mayRelease = !program.some(calls);
  for (const act of program) await perform(host, act, { ...frame, quota, mayRelease });
}

/** What calls were made on stays charged: one request, for them. */
const calls = (act: Act): boolean =>
  act.do === "call" || act.do === "half a stream" || act.do === "list files" || act.do === "job" || (act.do === "at once" && act.acts.some(calls));

async function perform(host: Host, act: Act, frame: Frame): Promise<void> {
  const soft = (error: unknown): void => {
    if (error instanceof Thrown) throw error;
  };
  switch (act.do) {
    case "call": {
      const { completions } = (act.as === "bob" ? host.forBob : host.openai).chat;
      const body = asked("one two", { max_tokens: act.most });
      if (!act.stream) await completions.create(body).catch(soft);
      else
        await (async () => {
          for await (const chunk of await completions.create({ ...body, stream: true })) void chunk;
        })().catch(soft);
      return;
    }
    case "half a stream":
      await (async () => {
        for await (const chunk of await host.openai.chat.completions.create({ ...asked("one"), stream: true })) if (chunk) break;
      })().catch(soft);
      return;
    case "list files":
      await host.guard
        .fetch()(`${host.url}/v1/files`, { headers: { authorization: `Bearer ${OWN_KEY}` } })
        .then(
          async (answer) => answer.text(),
          () => undefined,
        );
      return;
    case "meter":
      host.metered += act.usd;
      if (frame.end.isNear) host.late.add(frame.quota.requestId);
      frame.quota.meter({ usd: act.usd, inputTokens: 1, outputTokens: 1 });
      return;
    case "release":
      if (frame.mayRelease) frame.quota.release();
      return;
    case "throw":
      throw new Thrown("of the host");
    case "answer":
      frame.end.isNear = true;
      await frame.answer();
      return;
    case "leave":
      frame.end.isNear = true;
      frame.leave();
      return;
    case "wait":
      await new Promise(setImmediate);
      return;
    case "at once":
      await Promise.all(act.acts.map(async (each) => perform(host, each, frame)));
      return;
    case "job":
      await host.guard
        .run(
          { scopes: { user: "alice" }, ...(act.limits ? { limits: act.limits } : {}), ...(act.usd === null ? {} : { cost: costs(act.usd) }) },
          async (quota) => play(host, act.acts, { ...frame, quota }),
        )
        .catch(soft);
  }
}

/** A job needs a cost for what it counts: that is a mistake of its author, and not our subject. */
const isSound = (act: Act): boolean => {
  if (act.do === "at once") return act.acts.every(isSound);
  if (act.do !== "job") return true;
  const needs = (act.limits ?? LIMITS.map((limit) => limit.name)).some((limit) => limit !== "calls" && limit !== "places");
  return (act.usd !== null || !needs) && act.acts.every(isSound);
};

async function live({ entries, ownKey, replies, fault, seed, isCut }: Scenario, inner: Store): Promise<void> {
  const upstream = await fakeUpstream();
  endings.push(() => upstream.close());
  let next = 0;
  upstream.script(() => REPLIES()[replies[next++ % replies.length] ?? 0]);
  const store: FaultyStore = faultyStore({ store: inner, seed });
  const options: GuardOptions<LimitName> = {
    store,
    auth: false,
    logger: { debug() {}, info() {}, warn() {}, error() {} },
    models: [{ name: MODEL, price: { inputPerMtok: 1_000, outputPerMtok: 1_000 } }],
    credentials: ownKey ? [] : [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: upstream.url }],
    scopes: (req) => ({ user: req.headers["x-user"] as string | undefined }),
    limits: LIMITS.map((limit) => (fault?.policy === "deny" ? { ...limit, onStoreError: "deny" as const } : limit)),
    server: { shutdownTimeout: 20 },
    resilience: { retryBudget: 1 },
  };
  const guard = createGuard(options);
  endings.push(() => guard.close());
  await guard.ready();
  const baseURL = `${upstream.url}/v1`;
  const host: Host = {
    guard,
    openai: new OpenAI({ apiKey: OWN_KEY, baseURL, ...guard.sdk() }),
    forBob: new OpenAI({ apiKey: OWN_KEY, baseURL, ...guard.sdk({ scopes: { user: "bob" } }) }),
    url: upstream.url,
    metered: 0,
    late: new Set(),
  };
  const programs: Promise<void>[] = [];
  const clients: AbortController[] = [];
  const app = express();
  const run = (req: Request, res: Reply): void => {
    const at = Number(req.headers["x-entry"]);
    const closed = new Promise((resolve) => void res.once("close", resolve));
    const answer = (): Promise<unknown> => {
      res.end();
      return closed;
    };
    const frame = { quota: contextOf(req), end: { isNear: false }, answer, leave: () => clients[at]?.abort() };
    programs.push(
      play(host, entries[at]?.acts ?? [], frame).then(
        () => void res.end(),
        () => void res.status(500).end(),
      ),
    );
  };
  app.post("/all", guard.budgets({ cost: costs(0.3) }), run);
  app.use("/growing", guard.budgets({ cost: costs(0.05) }));
  app.post("/growing", guard.budgets({ limits: ["day", "tokens", "places"], cost: costs(0.6) }), run);
  app.use("/apart", guard.budgets({ limits: ["calls", "places"] }), guard.budgets({ limits: ["tokens"], cost: { tokens: 50 } }));
  app.post("/apart", guard.budgets({ limits: ["day"], cost: 0.2 }), run);
  app.use("/gateway", guard.budgets({ limits: ["day", "calls"], cost: 0.01 }), guard.handler());
  app.use((_error: unknown, _req: Request, res: Reply, _next: () => void) => void res.status(500).end());
  const { url, close } = await listen(app);
  endings.push(close);

  if (fault) store.fail({ fault: fault.fault, probability: fault.probability }, "limits.reserve", "limits.settle", "limits.release", "limits.lapse");
  const ask = async ({ user, by, acts: program }: Entry, at: number): Promise<void> => {
    const controller = (clients[at] = new AbortController());
    if (by === "job") {
      const idle = { end: { isNear: false }, answer() {}, leave: () => controller.abort() };
      await guard
        .run({ scopes: { user }, cost: costs(0.3), signal: controller.signal }, async (quota) => play(host, program, { ...idle, quota }))
        .catch(() => undefined);
      return;
    }
    const path = by === "gateway" ? "gateway/v1/chat/completions" : by;
    const body =
      by === "gateway" ? JSON.stringify(asked("one two", { max_tokens: program.length > 2 ? 500 : 30, stream: program.length === 1 })) : "{}";
    const headers = { "x-user": user, "x-entry": String(at), "content-type": "application/json" };
    await fetch(`${url}/${path}`, { method: "POST", headers, body, signal: controller.signal }).then(
      async (response) => response.text(),
      () => undefined,
    );
  };
  const asking = Promise.all(entries.map(ask));
  if (isCut) {
    await Promise.race([asking, new Promise(setImmediate)]);
    // With a store that stays away at the end settlements are lost, and said to be.
    store.recover();
    await guard.close();
  }
  await asking;
  // Handlers may call on after their responses.
  while (programs.length > 0) await Promise.all(programs.splice(0));
  while (guard.admin.health().openRequests > 0) await new Promise(setImmediate);
  store.recover();
  await guard.close();
  await check(host, store, upstream, options, { isLossy: fault !== null || isCut, isLocal: fault?.policy === "local" });
}

async function check(
  { metered, late }: Host,
  store: FaultyStore,
  upstream: Awaited<ReturnType<typeof fakeUpstream>>,
  options: GuardOptions<LimitName>,
  { isLossy, isLocal }: { readonly isLossy: boolean; readonly isLocal: boolean },
): Promise<void> {
  await expectConserved({ store, upstreams: [upstream], options }).catch((error: unknown) => {
    // What this process counted by itself is not in the store, what does not fit into a limit that only watches is not counted, and rows are not rewritten.
    const isElsewhere = ({ invariant, message }: Violation): boolean =>
      invariant === "I2" &&
      (message.includes(":watched:") || (isLocal && !message.includes("usd")) || [...late].some((id) => message.includes(`request ${id},`)));
    if (!(error instanceof ConservationError) || !error.violations.every(isElsewhere)) throw error;
  });
  const { reservations } = reservationsOf(store.recording.verbs);
  const charges = reservations.flatMap(({ charges: all }) => all);
  for (const rule of new Map(charges.filter(({ unit, enforce }) => unit === "usd" && enforce).map((charge) => [charge.key, charge])).values()) {
    const [standing] = await store.recording.peek([rule]);
    // Only what a host says afterwards may go beyond.
    expect(standing?.available).toBeGreaterThanOrEqual(-Math.round(metered * 1e9));
  }
  if (isLossy) return;
  for (const { verb, result } of store.recording.verbs)
    if (verb === "reserve") expect(["allowed", "limited"]).toContain((result as { kind: string }).kind);
}

const stores: Readonly<Record<string, () => Store>> = {
  memory: () => memoryStore(),
  redis() {
    const store = redisStore(redis as string, { partition: randomUUID() });
    endings.push(async () => store.close());
    return store;
  },
};

test.each([["memory", 70], ...(redis === undefined ? [] : [["redis", 30] as const])] as const)(
  "budgets, calls, jobs, reports and exits conserve in whatever order, with counters in %s",
  async (name, numRuns) => {
    const sound = scenarios.filter(({ entries }) => entries.every((entry) => entry.acts.every(isSound)));
    const property = fc.asyncProperty(sound, async (scenario) => {
      try {
        await live(scenario, (stores[name] as () => Store)());
      } finally {
        for (const end of endings.splice(0).toReversed()) await end();
      }
    });
    await fc.assert(property, { numRuns, interruptAfterTimeLimit: 10_000, endOnFailure: true });
  },
  30_000,
);
