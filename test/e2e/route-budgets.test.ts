// Budgets on a host's own route, over real sockets: every form of cost and of meter, by the final standing; who skips, what headers say, how it refuses.
import express, { type Express, type Request, type Response as Reply } from "express";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import {
  contextOf,
  createGuard,
  type CostFunction,
  type CostValue,
  type GuardOptions,
  type Handler,
  type LimitOptions,
  type QuotaGuard,
  type Remaining,
} from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";
import { gatewayOptions, KEY, listen } from "../helpers/app.ts";

const cleanups: (() => Promise<void>)[] = [];
afterAll(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

const log = () => vi.fn<(about: object | string, message?: string) => void>();
const logger = { debug: log(), info: log(), warn: log(), error: log() };

/** USD per million tokens: 2.5 in, 1.25 from a cache, 10 out. */
const models = [{ name: "gpt-4o", price: { inputPerMtok: 2.5, outputPerMtok: 10, cacheReadPerMtok: 1.25 } }];
const USD = 10;
const TOKENS = 10_000;

const LIMITS = [
  { name: "usd", scope: "user", unit: "usd", window: { limit: USD, per: "day" } },
  { name: "tokens", scope: "user", unit: "tokens", bucket: { capacity: TOKENS, refillPerSec: 0 } },
  { name: "input", scope: "user", unit: "input_tokens", window: { limit: TOKENS, per: "hour" } },
  { name: "output", scope: "user", unit: "output_tokens", window: { limit: TOKENS, per: "month" } },
  { name: "calls", scope: "user", unit: "requests", window: { limit: 5, per: "minute" } },
  { name: "places", scope: "user", unit: "concurrent", concurrency: { limit: 3 } },
] as const satisfies readonly LimitOptions[];
type LimitName = (typeof LIMITS)[number]["name"];
const COUNTED = ["usd", "tokens", "input", "output"] as const;

const userOf = (req: Request): string => String(req.headers["x-user"]);

interface Host {
  readonly guard: QuotaGuard<LimitName>;
  post(path: string, user: string, body?: unknown, headers?: Record<string, string>): Promise<globalThis.Response>;
  /** What limits hold and have used, once nothing is held any more. */
  settled(user: string): Promise<Partial<Record<LimitName, number>>>;
}

async function host(mount: (app: Express, guard: QuotaGuard<LimitName>) => void, more: GuardOptions = {}): Promise<Host> {
  const guard = createGuard({
    store: { url: "memory" },
    logger,
    models,
    modelAlias: { fast: "gpt-4o" },
    scopes: (req: Request) => ({ user: req.headers["x-user"] as string | undefined }),
    ...more,
    limits: LIMITS,
  });
  const app = express();
  mount(app, guard);
  const { url, close } = await listen(app);
  cleanups.push(
    () => guard.close(),
    () => close(),
  );
  await guard.ready();
  return {
    guard,
    post: (path, user, body, headers = {}) =>
      fetch(url + path, {
        method: "POST",
        headers: { "x-user": user, ...(typeof body === "object" ? { "content-type": "application/json" } : {}), ...headers },
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      }),
    async settled(user) {
      await expect.poll(async () => sum(await guard.remaining({ user }), "held")).toEqual({});
      return sum(await guard.remaining({ user }), "used");
    },
  };
}

/** One figure of all limits, without those that are 0. */
const sum = (rows: readonly Remaining[], figure: "held" | "used"): Partial<Record<LimitName, number>> =>
  Object.fromEntries(rows.flatMap((row) => (row[figure] === 0 ? [] : [[row.name, row[figure]]])));

/** Answers what its request holds at that moment. */
const tell =
  (guard: QuotaGuard) =>
  async (req: Request, res: Reply): Promise<void> => {
    res.json(sum(await guard.remaining({ user: userOf(req) }), "held"));
  };

describe("every form of cost is held as it says, and stands where nobody meters", () => {
  const BODY = { messages: [{ role: "user", content: "hello world, hello budget" }] };
  const body = JSON.stringify(BODY);
  /** What our tokenizer makes of the texts. */
  let read: (text: string) => number;

  type Row = readonly [
    what: string,
    limits: readonly LimitName[],
    cost: CostValue | CostFunction,
    held: (() => Partial<Record<LimitName, number>>) | Partial<Record<LimitName, number>>,
  ];
  const priced = (input: number, output: number) => ({
    usd: (input * 2_500 + output * 10_000) / 1e9,
    tokens: input + output,
    input,
    output,
  });
  const rows: readonly Row[] = [
    ["USD", ["usd"], 0.25, { usd: 0.25 }],
    ["nothing", ["usd"], 0, {}],
    ["a fraction that no double has", ["usd"], 0.1 + 0.2, { usd: 0.3 }],
    ["{ usd }", ["usd", "calls"], { usd: 0.5 }, { usd: 0.5, calls: 1 }],
    ["{ tokens }", ["tokens", "places"], { tokens: 500 }, { tokens: 500, places: 1 }],
    [
      "{ inputTokens, outputTokens }",
      ["tokens", "input", "output"],
      { inputTokens: 300, outputTokens: 200 },
      { tokens: 500, input: 300, output: 200 },
    ],
    ["{ outputTokens }", ["tokens", "output"], { outputTokens: 200 }, { tokens: 200, output: 200 }],
    [
      "all amounts at once, of which tokens need not be a sum",
      COUNTED,
      { usd: 1, tokens: 900, inputTokens: 300, outputTokens: 200 },
      { usd: 1, tokens: 900, input: 300, output: 200 },
    ],
    ["a model and its input", COUNTED, { model: "gpt-4o", input: "hello world", maxOutputTokens: 800 }, () => priced(read("hello world"), 800)],
    ["a model and the body", COUNTED, { model: "gpt-4o", maxOutputTokens: 100 }, () => priced(read(body), 100)],
    ["a model by its alias", COUNTED, { model: "fast", input: { any: "object" }, maxOutputTokens: 100 }, () => priced(read('{"any":"object"}'), 100)],
    ["a function", ["usd"], (req) => (req.headers["x-user"] ? 0.125 : -1), { usd: 0.125 }],
    ["a function of the body", ["tokens"], (req) => ({ tokens: (req as Request).body.messages.length * 10 }), { tokens: 10 }],
    ["a function that takes its time", ["tokens"], async () => Promise.resolve({ tokens: 20 }), { tokens: 20 }],
    ["a function that names a model", COUNTED, async () => ({ model: "fast", maxOutputTokens: 1 }), () => priced(read(body), 1)],
    ["requests and places alone", ["calls", "places"], 0, { calls: 1, places: 1 }],
  ];

  let it: Host;
  beforeAll(async () => {
    read = (await import("../../src/limits/tokenizer.ts")).fastTokenizer;
    it = await host((app, guard) => {
      app.use(express.json());
      rows.forEach(([, limits, cost], i) => app.post(`/${i}`, guard.budgets({ limits, cost }), tell(guard)));
    });
  });

  test.each(rows.map((row, i) => [row[0], i] as const))("%s", async (_what, i) => {
    const held = rows[i]?.[3] ?? {};
    const expected = typeof held === "function" ? held() : held;
    const response = await it.post(`/${i}`, `user-${i}`, BODY);
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual(expected);
    const { places: _places, ...rest } = expected;
    expect(await it.settled(`user-${i}`)).toEqual(rest);
  });

  test("a body that no parser has read is as long as its bytes", async () => {
    const raw = await host((app, guard) => {
      app.post("/", guard.budgets({ limits: ["input"], cost: { model: "gpt-4o", maxOutputTokens: 1 } }), tell(guard));
    });
    expect(await (await raw.post("/", "raw", body)).json()).toEqual({ input: body.length });
    expect(await (await raw.post("/", "empty")).json()).toEqual({});
  });

  test("without limits of tokens or money no cost is asked for", async () => {
    const cost = vi.fn<() => number>(() => 1);
    const free = await host((app, guard) => {
      app.post("/none", guard.budgets({ limits: ["calls", "places"] }), tell(guard));
      app.post("/never-asked", guard.budgets({ limits: ["calls"], cost }), tell(guard));
    });
    expect(await (await free.post("/none", "a")).json()).toEqual({ calls: 1, places: 1 });
    expect(await (await free.post("/never-asked", "b")).json()).toEqual({ calls: 1 });
    expect(cost).not.toHaveBeenCalled();
  });
});

describe("a cost function that fails is no free pass", () => {
  const wrong: readonly (readonly [string, () => unknown])[] = [
    ["throws", () => fail(Object.assign(new Error("no row"), { status: 404 }))],
    ["throws what is no error", () => fail("text")],
    ["rejects", async () => Promise.reject(new Error("the database is away"))],
    ["returns nothing", () => undefined],
    ["resolves to nothing", async () => undefined],
    ["returns null", () => null],
    ["returns text", () => "5"],
    ["returns no number", () => NaN],
    ["returns a debt", () => -0.01],
    ["returns the infinite", () => Infinity],
    ["returns a list", () => [1]],
    ["says nothing of the limit's unit", () => ({ tokens: 1 })],
    ["misspells", () => ({ uds: 1 })],
    ["forgets the maximum", () => ({ model: "gpt-4o" })],
    ["returns a fraction of a token", () => ({ usd: 1, tokens: 0.5 })],
  ];
  const handler = vi.fn<(req: Request, res: Reply) => void>((_req, res) => void res.send("ok"));
  let it: Host;
  beforeAll(async () => {
    it = await host((app, guard) =>
      wrong.forEach(([, cost], i) => app.post(`/${i}`, guard.budgets({ limits: ["usd", "calls"], cost: cost as never }), handler)),
    );
  });

  test.each(wrong.map(([what], i) => [what, i] as const))("%s", async (_what, i) => {
    logger.error.mockClear();
    const response = await it.post(`/${i}`, `wrong-${i}`);
    expect([response.status, response.headers.get("content-type")]).toEqual([500, "application/problem+json; charset=utf-8"]);
    expect(await response.json()).toMatchObject({ code: "internal", request_id: expect.any(String) as unknown });
    expect(handler).not.toHaveBeenCalled();
    expect(logger.error).toHaveBeenCalledOnce();
    expect(await it.settled(`wrong-${i}`)).toEqual({});
  });

  function fail(what: unknown): never {
    throw what;
  }

  test("a model that nobody has priced is refused by name", async () => {
    const unpriced = await host((app, guard) =>
      app.post("/", guard.budgets({ limits: ["usd"], cost: { model: "gpt-9", maxOutputTokens: 1 } }), handler),
    );
    const response = await unpriced.post("/", "a");
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([400, "model_not_priced"]);
  });
});

describe("what is metered replaces what was held", () => {
  const openai = (id: string, usage: object | null) => ({ id, model: "gpt-4o", object: "chat.completion", choices: [], usage });
  const chunk = (id: string, usage: object | null) => ({ ...openai(id, usage), object: "chat.completion.chunk" });
  const tokens = (input: number, output: number) => ({ prompt_tokens: input, completion_tokens: output, total_tokens: input + output });
  const used = (input: number, output: number, cached = 0) => ({
    usd: ((input - cached) * 2_500 + cached * 1_250 + output * 10_000) / 1e9,
    tokens: input + output,
    input,
    output,
  });

  const hasUsage = (report: object): boolean => /tokens|tokenCount|"usd"/i.test(JSON.stringify(report));
  type Row = readonly [what: string, reports: readonly object[], used: Partial<Record<LimitName, number>>];
  const rows: readonly Row[] = [
    ["by hand", [{ model: "gpt-4o", inputTokens: 100, outputTokens: 10 }], used(100, 10)],
    [
      "by hand, adding",
      [
        { model: "gpt-4o", inputTokens: 100 },
        { model: "gpt-4o", inputTokens: 1, outputTokens: 10 },
      ],
      used(101, 10),
    ],
    ["by hand in USD", [{ usd: 0.5 }, { usd: 0.25, inputTokens: 7 }], { usd: 0.75, tokens: 7, input: 7 }],
    ["by hand, more than was held", [{ model: "gpt-4o", inputTokens: 9_000, outputTokens: 2_000 }], used(9_000, 2_000)],
    ["by hand, without a price: the money stays as held", [{ inputTokens: 3 }], { usd: 1, tokens: 3, input: 3 }],
    ["an OpenAI chat", [openai("c1", tokens(100, 10))], used(100, 10)],
    ["an OpenAI chat with a cache", [openai("c1", { ...tokens(100, 10), prompt_tokens_details: { cached_tokens: 40 } })], used(100, 10, 40)],
    ["a stream of OpenAI chunks", [chunk("c1", null), chunk("c1", null), chunk("c1", tokens(100, 10))], used(100, 10)],
    ["chunks whose usage grows: the same response replaces", [chunk("c1", tokens(100, 1)), chunk("c1", tokens(100, 10))], used(100, 10)],
    ["two responses: another adds", [openai("c1", tokens(100, 10)), openai("c2", tokens(50, 5)), openai("c1", tokens(100, 10))], used(150, 15)],
    ["an OpenAI response", [{ id: "r1", model: "gpt-4o", object: "response", usage: { input_tokens: 100, output_tokens: 10 } }], used(100, 10)],
    [
      "events of an OpenAI response",
      [
        { type: "response.created", response: { id: "r1", model: "gpt-4o", usage: null } },
        { type: "response.output_text.delta", delta: "hi" },
        { type: "response.completed", response: { id: "r1", model: "gpt-4o", usage: { input_tokens: 100, output_tokens: 10 } } },
      ],
      used(100, 10),
    ],
    [
      "an OpenAI embedding",
      [{ object: "list", model: "gpt-4o", usage: { prompt_tokens: 100, total_tokens: 100 } }],
      { usd: 0.00025, tokens: 100, input: 100 },
    ],
    [
      "an Anthropic message",
      [{ id: "m1", type: "message", model: "gpt-4o", usage: { input_tokens: 60, cache_read_input_tokens: 40, output_tokens: 10 } }],
      used(100, 10, 40),
    ],
    [
      "an Anthropic stream",
      [
        { type: "message_start", message: { id: "m1", type: "message", model: "gpt-4o", usage: { input_tokens: 100, output_tokens: 1 } } },
        { type: "content_block_delta", delta: { text: "hi" } },
        { type: "message_delta", usage: { output_tokens: 4 } },
        { type: "message_delta", usage: { output_tokens: 10 } },
        { type: "message_stop" },
      ],
      used(100, 10),
    ],
    [
      "Gemini chunks",
      [
        { responseId: "g1", modelVersion: "gpt-4o", usageMetadata: { promptTokenCount: 100, candidatesTokenCount: 2 } },
        { responseId: "g1", modelVersion: "gpt-4o", usageMetadata: { promptTokenCount: 100, candidatesTokenCount: 6, thoughtsTokenCount: 4 } },
      ],
      used(100, 10),
    ],
    ["a response and more by hand", [openai("c1", tokens(100, 10)), { model: "gpt-4o", outputTokens: 5 }], used(100, 15)],
    ["what has no usage: the estimate stands", [chunk("c1", null), {}, { type: "ping" }], { usd: 1, tokens: 500, input: 300, output: 200 }],
    [
      "an Anthropic stream that has only begun: the estimate stands",
      [{ type: "message_start", message: { id: "m1", type: "message", model: "gpt-4o", usage: { input_tokens: 100, output_tokens: 1 } } }],
      { usd: 1, tokens: 500, input: 300, output: 200 },
    ],
    ["nothing at all: the estimate stands", [], { usd: 1, tokens: 500, input: 300, output: 200 }],
  ];

  let it: Host;
  let later: (() => void)[];
  beforeAll(async () => {
    later = [];
    it = await host((app, guard) => {
      const cost = { usd: 1, tokens: 500, inputTokens: 300, outputTokens: 200 };
      const budgets = guard.budgets({ limits: [...COUNTED, "calls", "places"], cost });
      rows.forEach(([, reports], i) => {
        app.post(`/now/${i}`, budgets, (req, res) => {
          for (const report of reports) contextOf(req).meter(report);
          res.send("ok");
        });
        app.post(`/late/${i}`, budgets, (req, res) => {
          res.send("ok");
          later[i] = () => reports.forEach((report) => contextOf(req).meter(report));
        });
      });
      app.post("/release", budgets, (req, res) => {
        contextOf(req).release();
        res.send("ok");
      });
      app.post("/fails", budgets, () => {
        throw Object.assign(new Error("of the host"), { status: 418 });
      });
    });
  });

  test.each(rows.map(([what, , expected], i) => [what, i, expected] as const))("%s", async (_what, i, expected) => {
    expect((await it.post(`/now/${i}`, `now-${i}`)).status).toBe(200);
    expect(await it.settled(`now-${i}`)).toEqual({ ...expected, calls: 1 });
  });

  /** A late report replaces the estimate once; these would need it twice. */
  const isReport = (report: object): boolean => hasUsage(report) && (report as { type?: string }).type !== "message_start";
  const inOneReport = rows
    .map(([what, reports, expected], i) => [what, i, expected, reports.filter(isReport).length] as const)
    .filter((row) => row[3] <= 1);
  test.each(inOneReport)("%s, after the response is closed", async (_what, i, expected) => {
    expect((await it.post(`/late/${i}`, `late-${i}`)).status).toBe(200);
    expect(await it.settled(`late-${i}`)).toEqual({ usd: 1, tokens: 500, input: 300, output: 200, calls: 1 });
    later[i]?.();
    expect(await it.settled(`late-${i}`)).toEqual({ ...expected, calls: 1 });
  });

  test("nothing, not even the request, when it was released", async () => {
    await it.post("/release", "release");
    expect(await it.settled("release")).toEqual({});
    expect(await it.guard.ledger.list({ scopes: { user: "release" } })).toMatchObject([{ state: "released", billedNanoUsd: 0, status: 200 }]);
  });

  test("the estimate stands when the host's handler fails", async () => {
    expect((await it.post("/fails", "fails")).status).toBe(418);
    expect(await it.settled("fails")).toEqual({ usd: 1, tokens: 500, input: 300, output: 200, calls: 1 });
  });
});

describe("who skips", () => {
  test("passes unbudgeted: no hold, no header, no scope asked for", async () => {
    const skip = vi.fn<(req: Request) => boolean>((req) => req.headers["x-role"] === "admin");
    const it = await host((app, guard) => {
      app.post("/", guard.budgets({ limits: ["usd", "calls", "places"], cost: 1, skip }), tell(guard));
      app.post("/later", guard.budgets({ limits: ["calls"], skip: async (req) => Promise.resolve(skip(req as Request)) }), tell(guard));
    });
    for (const path of ["/", "/later"]) {
      const response = await it.post(path, "alice", undefined, { "x-role": "admin" });
      expect([response.status, await response.json()]).toEqual([200, {}]);
      expect([...response.headers.keys()].filter((name) => name.includes("ratelimit"))).toEqual([]);
      expect((await it.post(path, "", undefined, { "x-role": "admin" })).status).toBe(200);
      expect((await it.post(path, "")).status).toBe(400);
    }
    expect(await (await it.post("/", "alice")).json()).toEqual({ usd: 1, calls: 1, places: 1 });
    expect(await it.settled("alice")).toEqual({ usd: 1, calls: 1 });
  });

  test.each<readonly [string, () => unknown]>([
    ["throws", () => boom()],
    ["rejects", async () => boom()],
  ])("is not decided by a function that %s", async (_what, skip) => {
    const it = await host((app, guard) => app.post("/", guard.budgets({ limits: ["calls"], skip: skip as never }), tell(guard)));
    logger.error.mockClear();
    const response = await it.post("/", "alice");
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([500, "internal"]);
    expect(logger.error).toHaveBeenCalledOnce();
    expect(await it.settled("alice")).toEqual({});
  });

  test.each([undefined, null, 0, "yes", 1, {}])("is who gets true, not %j", async (answer) => {
    const it = await host((app, guard) => app.post("/", guard.budgets({ limits: ["calls"], skip: (() => answer) as never }), tell(guard)));
    expect(await (await it.post("/", "alice")).json()).toEqual({ calls: 1 });
  });

  function boom(): never {
    throw new Error("the roles are not there");
  }
});

describe("headers", () => {
  const STANDARD = ["ratelimit", "ratelimit-policy"];
  const LEGACY = ["limit", "remaining", "reset"].map((figure) => `x-ratelimit-${figure}-requests`);
  const shown = ({ headers }: globalThis.Response): string[] => [...headers.keys()].filter((name) => name.includes("ratelimit")).toSorted();

  test.each([
    [undefined, [...STANDARD, ...LEGACY]],
    ["all", [...STANDARD, ...LEGACY]],
    ["standard", STANDARD],
    ["legacy", LEGACY],
    ["none", []],
  ] as const)("in the style %s", async (style, names) => {
    const it = await host((app, guard) => app.post("/", guard.budgets({ limits: ["calls"], headers: style }), tell(guard)));
    for (let i = 0; i < 5; i += 1) expect(shown(await it.post("/", "alice"))).toEqual(names);
    const refused = await it.post("/", "alice");
    expect([refused.status, shown(refused)]).toEqual([429, names]);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(refused.headers.get("x-should-retry")).toBe("false");
  });

  test("of several budgets are joined, and show the tightest figures", async () => {
    const it = await host((app, guard) => {
      const hourly = { name: "hourly", scope: "user", unit: "requests", window: { limit: 3, per: "hour" } } as const;
      app.post("/a", guard.budgets({ limits: [hourly] }), guard.budgets({ limits: ["calls"] }), tell(guard));
      app.post("/b", guard.budgets({ limits: ["calls"] }), guard.budgets({ limits: [hourly] }), tell(guard));
    });
    for (const path of ["/a", "/b"]) {
      const { headers } = await it.post(path, path.slice(1));
      expect(
        headers
          .get("ratelimit")
          ?.match(/"\w+";r=\d/g)
          ?.toSorted(),
      ).toEqual(['"calls";r=4', '"hourly";r=2']);
      expect([headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-remaining-requests")]).toEqual(["3", "2"]);
    }
  });
});

describe("refusals", () => {
  test("are problem documents with all that a client needs", async () => {
    const it = await host((app, guard) => app.post("/", guard.budgets({ limits: ["usd"], cost: 6 }), tell(guard)));
    await it.post("/", "alice");
    await it.settled("alice");
    const response = await it.post("/", "alice", undefined, { "x-request-id": "mine-1" });
    expect(response.status).toBe(429);
    expect(response.headers.get("content-type")).toBe("application/problem+json; charset=utf-8");
    const problem = (await response.json()) as Record<string, unknown>;
    expect(problem).toMatchObject({
      type: "about:blank",
      title: "budget exhausted",
      status: 429,
      code: "budget_exhausted",
      limit: "usd",
      scope: "user",
      needed: 6,
      available: 4,
      request_id: "mine-1",
    });
    expect(problem.detail).toMatch(/^limit usd \(per user\) has 4 USD left and this request needs 6; retry in \d+ s$/);
    expect(Number(response.headers.get("retry-after"))).toBe(Math.ceil(Number(problem.retry_after_ms) / 1_000));
    expect(response.headers.get("ratelimit")).toMatch(/^"usd";r=4000000;t=\d+$/);
    expect([response.headers.get("x-request-id"), response.headers.get("x-should-retry")]).toEqual(["mine-1", "false"]);
  });

  test.each<readonly [string, string, Record<string, unknown>]>([
    [
      "a missing scope",
      "",
      { status: 400, code: "scope_invalid", limit: "usd", scope: "user", detail: "limit usd needs scope user; is your auth before it?" },
    ],
    ["a value that no scope can have", "al ice", { status: 400, code: "scope_invalid", scope: "user" }],
    ["a cost above the limit", "alice", { status: 400, code: "budget_too_small", limit: "usd", needed: 11 }],
  ])("%s", async (_what, user, problem) => {
    const it = await host((app, guard) => app.post("/", guard.budgets({ limits: ["usd"], cost: 11 }), tell(guard)));
    const response = await it.post("/", user);
    expect([response.status, response.headers.get("content-type")]).toEqual([problem.status, "application/problem+json; charset=utf-8"]);
    expect(await response.json()).toMatchObject(problem);
  });

  test("are replaced by onRefused, which finds the headers set and may answer, fail or let pass", async () => {
    const it = await host((app, guard) => {
      const refusing = (path: string, onRefused: NonNullable<NonNullable<Parameters<typeof guard.budgets>[0]>["onRefused"]>): void =>
        void app.post(path, guard.budgets({ limits: ["calls"], onRefused }), (_req, res) => void res.send("passed"));
      refusing("/answer", ({ code, limit }, req, res) => void (res as Reply).status(418).json({ code, limit, url: req.url }));
      refusing("/fail", (error, _req, _res, next) => next(error));
      refusing("/pass", (_error, _req, _res, next) => next());
      refusing("/throw", () => {
        throw new Error("of the host");
      });
      refusing("/reject", () => Promise.reject(new Error("of the host, later")));
      app.use(
        (error: Error & { status?: number }, _req: Request, res: Reply, _next: () => void) =>
          void res.status(error.status ?? 502).send(error.message),
      );
    });
    for (const path of ["/answer", "/fail", "/pass", "/throw", "/reject"]) for (let i = 0; i < 5; i += 1) await it.post(path, path.slice(1));
    const answered = await it.post("/answer", "answer");
    expect([answered.status, await answered.json()]).toEqual([418, { code: "budget_exhausted", limit: "calls", url: "/answer" }]);
    expect(Number(answered.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(answered.headers.get("ratelimit")).toMatch(/^"calls";r=0;t=\d+$/);
    expect(answered.headers.get("x-request-id")).toBeTruthy();
    expect([(await it.post("/fail", "fail")).status, (await it.post("/throw", "throw")).status]).toEqual([429, 502]);
    expect((await it.post("/reject", "reject")).status).toBe(502);
    const passed = await it.post("/pass", "pass");
    expect([passed.status, await passed.text()]).toEqual([200, "passed"]);
  });
});

describe("limits of a route", () => {
  test("are one counter wherever they are named, and the guard's gateway does not count them", async () => {
    const upstream = await fakeUpstream();
    cleanups.push(() => upstream.close());
    const own = { name: "own", scope: "user", unit: "requests", window: { limit: 2, per: "hour" } } as const;
    const it = await host(
      (app, guard) => {
        app.use("/llm", guard.handler());
        app.post("/a", guard.budgets({ limits: [own] }), tell(guard));
        app.post("/b", guard.budgets({ limits: [{ ...own }] }), tell(guard));
      },
      {
        ...gatewayOptions(upstream),
        models: [{ ...models[0], name: "gpt-4o-mini" }] as never,
        scopes: (req: Request) => ({ user: req.headers["x-user"] as string | undefined }),
      },
    );
    expect([(await it.post("/a", "alice")).status, (await it.post("/b", "alice")).status, (await it.post("/a", "alice")).status]).toEqual([
      200, 200, 429,
    ]);
    const base = await it.post("/llm/v1/chat/completions", "alice", { model: "gpt-4o-mini", messages: [] }, { authorization: `Bearer ${KEY}` });
    expect(base.status).toBe(200);
    expect(base.headers.get("ratelimit")).not.toContain('"own"');
  });

  test("of one name are one limit: other numbers or another shape are start-up errors", async () => {
    const it = await host(() => {});
    const { guard } = it;
    const own = { name: "own", scope: "user", unit: "requests", window: { limit: 2, per: "hour" } } as const;
    guard.budgets({ limits: [own] });
    guard.budgets({ limits: [{ ...own, mode: "enforce" }] });
    const also = (limit: LimitOptions) => () => guard.budgets({ limits: [limit] });
    expect(also({ ...own, window: { limit: 2, per: "minute" } })).toThrow("own is defined twice with different scope, unit or period");
    expect(also({ ...own, window: { limit: 3, per: "hour" } })).toThrow("own is defined twice with different numbers or policies; define it once");
    expect(also({ ...own, name: "calls" })).toThrow("calls is defined twice with different scope, unit or period");
    expect(also({ ...own, scope: "usr" })).toThrow("unknown scope usr; did you mean user?");
  });

  test("may be dynamic, for one request", async () => {
    const plans: Record<string, number> = { alice: 1, bob: 3, root: -1 };
    const it = await host((app, guard) => {
      const limit = ({ scopes }: { scopes: Readonly<Record<string, string>> }): number => plans[scopes.user ?? ""] ?? 0;
      app.post(
        "/",
        guard.budgets({ limits: [{ name: "plan", scope: "user", unit: "requests", window: { limit, per: "day" } }] }),
        (_req, res) => void res.send(),
      );
    });
    const codes = async (user: string): Promise<number[]> => {
      const all: number[] = [];
      for (let i = 0; i < 4; i += 1) all.push((await it.post("/", user)).status);
      return all;
    };
    expect([await codes("alice"), await codes("bob"), await codes("root"), await codes("eve")]).toEqual([
      [200, 429, 429, 429],
      [200, 200, 200, 429],
      [200, 200, 200, 200],
      [400, 400, 400, 400],
    ]);
    expect((await it.guard.remaining({ user: "bob" })).find(({ name }) => name === "plan")).toMatchObject({ limit: 3, used: 3, available: 0 });
  });
});

describe("scopes of a route", () => {
  test("add to what the guard's own say, for this route and what follows it", async () => {
    const guard = createGuard({
      store: { url: "memory" },
      scopes: { names: ["feature"], of: (req) => ({ user: req.headers["x-user"] as string, team: "data" }) },
      limits: [{ name: "feature-calls", scope: ["user", "feature"], unit: "requests", window: { limit: 9, per: "hour" } }],
    });
    const app = express();
    const seen = (req: Request, res: Reply): void => void res.json(contextOf(req).scopes);
    app.get("/search", guard.budgets({ scopes: () => ({ feature: "search" }) }), seen);
    app.get("/other-team", guard.budgets({ scopes: async () => ({ feature: "search", team: "sales" }) }), seen);
    const { url, close } = await listen(app);
    cleanups.push(
      () => guard.close(),
      () => close(),
    );
    const get = async (path: string): Promise<unknown> => (await fetch(url + path, { headers: { "x-user": "alice" } })).json();
    expect(await get("/search")).toEqual({ user: "alice", team: "data", feature: "search" });
    expect(await get("/other-team")).toEqual({ user: "alice", team: "sales", feature: "search" });
    await expect.poll(async () => (await guard.remaining({ user: "alice", feature: "search" }))[0]).toMatchObject({ used: 2, held: 0 });
  });
});

describe("several budgets on one request", () => {
  test("hold a limit once, at the largest cost that one of them says, however many routers it passes", async () => {
    const order = (costs: readonly number[]) => (app: Express, guard: QuotaGuard<LimitName>) => {
      const [one, two, three] = costs.map((usd) => guard.budgets({ limits: ["usd", "calls", "places"], cost: { usd } })) as [
        Handler,
        Handler,
        Handler,
      ];
      const router = express.Router();
      router.use(two);
      router.post(
        "/",
        three,
        guard.budgets({ limits: ["usd", "tokens"], cost: { usd: 0.2, tokens: 70 } }),
        guard.budgets({ limits: ["calls"] }),
        async (req, res) => {
          if (req.query.usd !== undefined) contextOf(req).meter({ usd: Number(req.query.usd), inputTokens: 3 });
          await tell(guard)(req, res);
          late.push(() => contextOf(req).meter({ usd: 0.125, inputTokens: 4 }));
        },
      );
      app.use(one, router);
    };
    const late: (() => void)[] = [];
    for (const costs of [
      [0.5, 0.1, 1],
      [1, 0.5, 0.1],
      [0, 1, 1],
      [0.1, 0.5, 1],
    ]) {
      const it = await host(order(costs));
      const debts: unknown[] = [];
      it.guard.events.on("debt", (debt) => debts.push(debt));
      expect(await (await it.post("/", "alice")).json()).toEqual({ usd: 1, tokens: 70, calls: 1, places: 1 });
      expect(await it.settled("alice")).toEqual({ usd: 1, tokens: 70, calls: 1 });
      late.pop()?.();
      expect(await it.settled("alice")).toEqual({ usd: 0.125, tokens: 4, calls: 1 });
      expect(await (await it.post("/?usd=0.75", "bob")).json()).toEqual({ usd: 1, tokens: 70, calls: 1, places: 1 });
      expect(await it.settled("bob")).toEqual({ usd: 0.75, tokens: 3, calls: 1 });
      expect(debts).toEqual([]);
      await it.post("/?usd=1.5", "eve");
      expect(await it.settled("eve")).toEqual({ usd: 1.5, tokens: 3, calls: 1 });
      expect(debts).toMatchObject([{ limit: "usd", amount: 0.5 }]);
    }
  });

  test("refuse when the largest cost does not fit, and hold nothing then", async () => {
    const it = await host((app, guard) => {
      app.use(guard.budgets({ limits: ["usd", "places"], cost: 1 }));
      app.post("/dear", guard.budgets({ limits: ["usd", "calls"], cost: USD }), tell(guard));
      app.post("/cheap", guard.budgets({ limits: ["usd"], cost: 0.5 }), tell(guard));
    });
    expect(await (await it.post("/cheap", "alice")).json()).toEqual({ usd: 1, places: 1 });
    await it.settled("alice");
    const refused = await it.post("/dear", "alice");
    expect([refused.status, await refused.json()]).toMatchObject([429, { limit: "usd", needed: USD - 1, available: USD - 2 }]);
    expect(await it.settled("alice")).toEqual({ usd: 1 });
    expect(await (await it.post("/dear", "bob")).json()).toEqual({ usd: USD, places: 1, calls: 1 });
    await it.settled("bob");
    await it.guard.ledger.flush();
    expect(await it.guard.ledger.list({ scopes: { user: "bob" } })).toMatchObject([{ state: "estimated", billedNanoUsd: USD * 1e9 }]);
  });

  test("give back what the earlier ones hold when a later one refuses", async () => {
    const it = await host((app, guard) => {
      app.use(guard.budgets({ limits: ["usd", "places"], cost: 1 }));
      app.post("/", guard.budgets({ limits: ["tokens"], cost: { tokens: TOKENS + 1 } }), tell(guard));
    });
    for (let i = 0; i < 5; i += 1) expect((await it.post("/", "alice")).status).toBe(400);
    expect(await it.settled("alice")).toEqual({});
  });
});
