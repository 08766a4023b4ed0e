// Plugins' routes as a client meets them: a real guard, a real app, real sockets.
import { get } from "node:http";
import { connect } from "node:net";
import express, { type Express } from "express";
import { afterEach, describe, expect, test } from "vitest";
import {
  createGuard,
  definePlugin,
  GuardError,
  jsonAnswer,
  type Answer,
  type Context,
  type GuardOptions,
  type PluginHost,
  type QuotaGuard,
  type Source,
} from "quotaguard";
import { silentLogger, type Logger } from "../../src/core/logger.ts";
import { keptLogger } from "../core/context-kit.ts";
import { listen, type Listening } from "../helpers/app.ts";
import { serve } from "../http/server-kit.ts";
import { settled } from "./plugin-kit.ts";

const KEY = "a-management-key-of-a-test-01";
const AUTH = { authorization: `Bearer ${KEY}` };

let open: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of open.toReversed()) await close();
  open = [];
});

interface Running {
  readonly guard: QuotaGuard;
  readonly app: Listening;
  readonly logger: Logger & { readonly lines: ReturnType<typeof keptLogger>["lines"] };
  ask(path: string, init?: RequestInit): Promise<Response>;
}

/** A guard with one plugin `probe`, its gateway at `/llm`. */
async function running(
  setup: (host: PluginHost) => void,
  {
    key = KEY,
    mount = (app, guard) => app.use("/llm", guard.handler()),
    base = "/llm/v0/management/plugins",
    ...more
  }: GuardOptions & {
    readonly key?: string | null;
    readonly mount?: (app: Express, guard: QuotaGuard) => void;
    readonly base?: string;
  } = {},
): Promise<Running> {
  const logger = keptLogger();
  const guard = createGuard({ auth: false, management: { key }, plugins: [{ name: "probe", setup }], logger, ...more });
  const app = express();
  mount(app, guard);
  const listening = await listen(app);
  open.push(
    () => listening.close(),
    () => guard.close(),
  );
  return { guard, app: listening, logger, ask: (path, init) => fetch(`${listening.url}${base}${path}`, init) };
}

const hello = (ctx: Context) => jsonAnswer({ method: ctx.method, query: Object.fromEntries(ctx.query), path: ctx.path });

describe("a keyed route", () => {
  test("answers the holder of the management key, and nobody else", async () => {
    const { ask } = await running((host) => host.route("/status", hello));
    const right = await ask("/probe/status?a=1&b=%20x", { headers: AUTH });
    expect([right.status, right.headers.get("content-type"), right.headers.get("cache-control")]).toEqual([
      200,
      "application/json; charset=utf-8",
      "no-store",
    ]);
    expect(await right.json()).toEqual({ method: "GET", query: { a: "1", b: " x" }, path: "/probe/status" });
    expect(right.headers.get("x-request-id")).toMatch(/\S+/);
    for (const headers of [{}, { authorization: "Bearer wrong" }]) {
      const refused = await ask("/probe/status", { headers });
      expect([refused.status, refused.headers.get("content-type")]).toEqual([401, "application/problem+json; charset=utf-8"]);
    }
  });

  test("is 404 where it is not, and 405 with what it takes", async () => {
    const { ask } = await running((host) => {
      host.route("/status", hello);
      host.route("/status", hello, { method: "DELETE" });
    });
    for (const path of [
      "",
      "/",
      "/probe",
      "/probe/other",
      "/probe/status/more",
      "/other/status",
      "/PROBE/status",
      "/probe//status",
      "/probe/%73tatus",
    ]) {
      expect((await ask(path, { headers: AUTH })).status, path).toBe(404);
    }
    expect((await ask("/probe/status/", { headers: AUTH })).status).toBe(200);
    const wrong = await ask("/probe/status", { method: "POST", headers: AUTH });
    expect([wrong.status, wrong.headers.get("allow"), ((await wrong.json()) as { code: string }).code]).toEqual([
      405,
      "GET, DELETE",
      "method_not_allowed",
    ]);
    const head = await ask("/probe/status", { method: "HEAD", headers: AUTH });
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });

  test("gets the bytes that were sent, up to server.bodyLimit: no parser of the tree has them first", async () => {
    const { ask, logger } = await running((host) =>
      host.route("/x", async (ctx) => ({ status: 200, headers: [], body: await ctx.body() }), { method: "POST" }),
    );
    const json = { ...AUTH, "content-type": "application/json" };
    for (const text of ['{ "a" : 1.0 }', "not JSON", JSON.stringify("x".repeat(300_000))]) {
      expect(await (await ask("/probe/x", { method: "POST", headers: json, body: text })).text()).toBe(text);
    }
    expect(logger.lines.filter(({ level }) => level === "warn")).toEqual([]);
  });

  test("is there under `guard.management()`, wherever that is mounted", async () => {
    const { ask } = await running((host) => host.route("/", hello), {
      mount: (app, guard) => app.use("/ops", guard.management()),
      base: "/ops/plugins",
    });
    expect(await (await ask("/probe?x=1", { headers: AUTH })).json()).toEqual({ method: "GET", query: { x: "1" }, path: "/probe" });
    expect((await ask("/probe")).status).toBe(401);
  });

  test("does not exist without a management key", async () => {
    const { ask } = await running((host) => host.route("/status", hello), { key: null });
    expect((await ask("/probe/status", { headers: AUTH })).status).toBe(404);
  });
});

describe("a public route", () => {
  const webhook = (host: PluginHost): void => {
    host.route("/hook", async (ctx) => jsonAnswer({ got: String(await ctx.body()) }, 202), { public: true, method: "POST" });
    host.route("/hook", hello);
  };

  test.each([KEY, null])("answers everybody, whatever the management key is (%s)", async (key) => {
    const { ask } = await running(webhook, { key });
    const answer = await ask("/probe/hook", { method: "POST", body: "update" });
    expect([answer.status, await answer.json()]).toEqual([202, { got: "update" }]);
  });

  test("opens its own method only", async () => {
    const { ask } = await running(webhook);
    expect((await ask("/probe/hook")).status).toBe(401);
    expect((await ask("/probe/hook", { headers: AUTH })).status).toBe(200);
    expect((await ask("/probe/hook", { method: "PUT" })).status).toBe(401);
    expect((await ask("/probe/hook", { method: "PUT", headers: AUTH })).headers.get("allow")).toBe("POST, GET");
  });

  test("without a key, everything else stays the host's", async () => {
    const { app, ask } = await running((host) => host.route("/hook", hello, { public: true }), {
      key: null,
      mount(host, guard) {
        host.use(guard.handler());
        host.use((_req, res) => void res.status(418).end());
      },
      base: "/v0/management/plugins",
    });
    expect((await ask("/probe/hook")).status).toBe(200);
    expect((await ask("/probe/hook", { method: "POST" })).status).toBe(405);
    for (const path of ["/v0/management/plugins/probe/none", "/v0/management/plugins", "/v0/management/health", "/"]) {
      expect((await fetch(`${app.url}${path}`)).status, path).toBe(418);
    }
    // A preflight is for the host's cors().
    expect((await ask("/probe/hook", { method: "OPTIONS" })).status).toBe(418);
  });

  test("works without Express", async () => {
    const guard = createGuard({ auth: false, plugins: [{ name: "probe", setup: (host) => host.route("/hook", hello, { public: true }) }] });
    open.push(() => guard.close());
    const handler = guard.handler();
    const { url } = await serve((req, res) => handler(req, res, () => void res.writeHead(404).end()));
    expect(await (await fetch(`${url}/v0/management/plugins/probe/hook?a=b`)).json()).toMatchObject({ query: { a: "b" } });
    expect((await fetch(`${url}/v0/management/plugins/probe/none`)).status).toBe(404);
  });

  test("waits for a guard that still starts", async () => {
    const gate = Promise.withResolvers<void>();
    const { ask } = await running(() => {}, {
      plugins: [
        {
          name: "probe",
          async setup(host) {
            await gate.promise;
            host.route("/hook", hello, { public: true });
          },
        },
      ],
    });
    const asking = ask("/probe/hook");
    await settled();
    gate.resolve();
    expect((await asking).status).toBe(200);
  });

  test("is 503 when the guard cannot start", async () => {
    const { ask, guard } = await running(() => {
      throw new Error("no");
    });
    await expect(guard.ready()).rejects.toThrow("the plugin probe could not be set up: no");
    const answer = await ask("/probe/hook");
    expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([503, "store_unavailable"]);
  });
});

describe("what a step does", () => {
  test("it gets the host's request, and nobody's principal", async () => {
    let seen: Context | undefined;
    const { ask } = await running((host) => host.route("/x", (ctx) => ((seen = ctx), jsonAnswer(null)), { public: true }));
    await ask("/probe/x", { headers: { "x-mine": "yes" } });
    expect([seen?.principal, seen?.scopes, seen?.headers["x-mine"], (seen?.host as { ip?: string } | undefined)?.ip]).toEqual([
      undefined,
      undefined,
      "yes",
      expect.stringContaining("127.0.0.1"),
    ]);
  });

  test("a body is read once, up to server.bodyLimit", async () => {
    const { ask } = await running(
      (host) =>
        host.route(
          "/x",
          async (ctx) => {
            const twice = await Promise.all([ctx.body(), ctx.body()]);
            return jsonAnswer([twice[0] === twice[1], twice[0].length]);
          },
          { public: true, method: "POST" },
        ),
      { server: { bodyLimit: 1_000 } },
    );
    expect(await (await ask("/probe/x", { method: "POST", body: "x".repeat(1_000) })).json()).toEqual([true, 1_000]);
    const large = await ask("/probe/x", { method: "POST", body: "x".repeat(1_001) });
    expect([large.status, ((await large.json()) as { code: string }).code]).toEqual([413, "body_too_large"]);
    const chunked = await ask("/probe/x", { method: "POST", body: new Blob(["x".repeat(1_001)]).stream(), duplex: "half" });
    expect(chunked.status).toBe(413);
    expect(await (await ask("/probe/x", { method: "POST" })).json()).toEqual([true, 0]);
  });

  test("a body that the host parsed before is given back as it was kept", async () => {
    const { ask } = await running(
      (host) => host.route("/x", async (ctx) => jsonAnswer(JSON.parse(String(await ctx.body()))), { public: true, method: "POST" }),
      {
        mount(app, guard) {
          app.use(express.json());
          app.use("/llm", guard.handler());
        },
      },
    );
    expect(await (await ask("/probe/x", { method: "POST", body: '{"a":1}', headers: { "content-type": "application/json" } })).json()).toEqual({
      a: 1,
    });
  });

  test("a refusal is a problem document with its own code", async () => {
    const { ask } = await running((host) => {
      host.route(
        "/x",
        () => {
          throw new GuardError("forbidden", "wrong secret token", { retryAfterMs: 1_500 });
        },
        { public: true },
      );
    });
    const refused = await ask("/probe/x");
    expect([refused.status, refused.headers.get("retry-after"), refused.headers.get("content-type")]).toEqual([
      403,
      "2",
      "application/problem+json; charset=utf-8",
    ]);
    expect(await refused.json()).toMatchObject({ code: "forbidden", detail: "wrong secret token", request_id: expect.any(String) });
  });

  test.each([
    [
      "throws",
      () => {
        throw new Error("canary: the plugin's own secret");
      },
    ],
    ["rejects", () => Promise.reject(new Error("canary: the plugin's own secret"))],
    ["returns nothing", () => undefined],
    ["returns rubbish", () => ({ status: 99, headers: [], body: null })],
    ["returns text", () => "hello" as never],
    ["returns odd headers", () => ({ status: 200, headers: ["a"], body: null })],
    ["returns a header of two lines", () => ({ status: 200, headers: ["x-note", "a\r\nset-cookie: canary=1"], body: null })],
  ])("one that %s is 500 plugin_failed, told to the log and counted", async (_how, step) => {
    const { ask, logger, guard } = await running((host) => host.route("/x", step, { public: true }), { monitoring: { prometheusEnabled: true } });
    const failed = await ask("/probe/x");
    const text = await failed.text();
    expect([failed.status, (JSON.parse(text) as { code: string }).code]).toEqual([500, "plugin_failed"]);
    expect(text).not.toContain("canary");
    expect(logger.lines.filter(({ fields }) => fields.plugin === "probe")).toEqual([
      expect.objectContaining({ level: "warn", message: "a route of the plugin failed" }),
    ]);
    expect((await guard.metrics())?.text).toContain('quotaguard_plugin_errors_total{plugin="probe",part="route"} 1');
  });

  test("one that never answers is given up after server.requestTimeout", async () => {
    const { ask, logger } = await running((host) => host.route("/x", () => new Promise<never>(() => {}), { public: true }), {
      server: { requestTimeout: 50 },
    });
    expect((await ask("/probe/x")).status).toBe(500);
    const line = logger.lines.find(({ fields }) => fields.plugin === "probe");
    expect((line?.fields.err as Error | undefined)?.message).toContain("within 50 ms");
  });

  test("a stream that comes after that is given up, and nobody reads it", async () => {
    let answer: ((given: Answer) => void) | undefined;
    const heard: string[] = [];
    const body: Source = { start: () => void heard.push("start"), resume() {}, cancel: () => void heard.push("cancel") };
    const { ask } = await running((host) => host.route("/x", () => new Promise<Answer>((resolve) => void (answer = resolve)), { public: true }), {
      server: { requestTimeout: 50 },
    });
    expect((await ask("/probe/x")).status).toBe(500);
    answer?.({ status: 200, headers: [], body });
    await settled();
    expect(heard).toEqual(["cancel"]);
  });

  test("a guard that closes waits for neither streams nor steps that have no end", async () => {
    const heard: string[] = [];
    const { ask, guard } = await running(
      (host) => {
        const body: Source = {
          start: (sink) => void sink.chunk(Buffer.from("data: 1\n\n")),
          resume() {},
          cancel: () => void heard.push("cancelled"),
        };
        host.route("/events", () => ({ status: 200, headers: ["content-type", "text/event-stream"], body }), { public: true });
        host.route("/slow", () => new Promise<never>(() => void heard.push("asked")), { public: true });
      },
      { server: { shutdownTimeout: 50 } },
    );
    const streaming = await ask("/probe/events");
    const slow = ask("/probe/slow");
    await expect.poll(() => heard).toEqual(["asked"]);
    await guard.close();
    // Broken off, so that nobody takes it for the whole.
    await expect(streaming.text()).rejects.toThrow("terminated");
    const refused = await slow;
    expect([refused.status, await refused.json(), heard]).toEqual([503, expect.objectContaining({ code: "overloaded" }), ["asked", "cancelled"]]);
  });

  const asBuffer = (chunk: unknown): Buffer => chunk as Buffer;
  const broken: readonly (readonly [string, Source])[] = [
    [
      "does not start",
      {
        start() {
          throw new Error("canary");
        },
        resume() {},
        cancel() {},
      },
    ],
    [
      "pushes text",
      {
        start(sink) {
          sink.chunk(asBuffer("one "));
          sink.chunk(asBuffer("two"));
          sink.end();
        },
        resume() {},
        cancel() {},
      },
    ],
    [
      "does not go on",
      {
        start(sink) {
          // More than a socket takes at once: what comes next is asked for.
          for (let i = 0; i < 8; i += 1) sink.chunk(Buffer.alloc(1_000_000));
        },
        resume() {
          throw new Error("canary");
        },
        cancel() {
          throw new Error("canary");
        },
      },
    ],
    [
      "fails",
      {
        start(sink) {
          sink.chunk(Buffer.from("a part"));
          sink.error(new Error("canary") as GuardError);
        },
        resume() {},
        cancel() {},
      },
    ],
  ];

  test.each(broken)("a stream that %s breaks its own answer and nothing else", async (_how, body) => {
    const { ask } = await running((host) => {
      host.route("/broken", () => ({ status: 200, headers: [], body }), { public: true });
      host.route("/whole", () => jsonAnswer("well"), { public: true });
    });
    const received = ask("/probe/broken").then((answer) => answer.text());
    await expect(received).rejects.toThrow(/terminated|fetch failed/);
    expect(await (await ask("/probe/whole")).json()).toBe("well");
  });

  test("HEAD of a stream without end is answered, and the stream is given up", async () => {
    const heard: string[] = [];
    const body: Source = { start: () => void heard.push("start"), resume() {}, cancel: () => void heard.push("cancel") };
    const events = (): Answer => ({ status: 200, headers: ["content-type", "text/event-stream"], body });
    const { app } = await running((host) => host.route("/events", events, { public: true }));
    const port = Number(new URL(app.url).port);
    const received = await new Promise<string>((resolve, reject) => {
      let all = "";
      const socket = connect(port, "127.0.0.1", () => {
        const head = "HEAD /llm/v0/management/plugins/probe/events HTTP/1.1\r\nhost: x\r\n\r\n";
        socket.write(`${head}GET /elsewhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
      });
      socket.on("data", (chunk: Buffer) => void (all += chunk.toString()));
      socket.on("end", () => resolve(all)).on("error", reject);
    });
    expect(received).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*text\/event-stream[^]*\r\n\r\nHTTP\/1\.1 404 /);
    expect(heard).toEqual(["cancel"]);
  });

  test("where an answer ends is not the plugin's to say", async () => {
    const copied = ["Content-Length", "3", "x-kept", "yes", "transfer-encoding", "chunked", "connection", "close", "content-type", "text/plain"];
    const { app } = await running((host) => host.route("/x", () => ({ status: 200, headers: copied, body: Buffer.from("hello") }), { public: true }));
    const rawHeaders = await new Promise<string[]>((resolve, reject) => {
      get(`${app.url}/llm/v0/management/plugins/probe/x`, (res) => resolve(res.resume().rawHeaders)).on("error", reject);
    });
    const named = rawHeaders.map((text, i) => (i % 2 === 0 ? `${text.toLowerCase()}: ${rawHeaders[i + 1]}` : "")).filter(Boolean);
    expect(named.filter((line) => /^(?:content-|transfer-|connection|x-kept)/.test(line)).toSorted()).toEqual([
      "connection: keep-alive",
      "content-length: 5",
      "content-type: text/plain",
      "x-kept: yes",
    ]);
  });

  test("an answer may be the same object each time, and a stream", async () => {
    const constant = jsonAnswer({ ok: true });
    let cancelled = 0;
    const source = (): Source => ({
      start(sink) {
        sink.chunk(Buffer.from("one "));
        sink.chunk(Buffer.from("two"));
        sink.end();
      },
      resume() {},
      cancel: () => void (cancelled += 1),
    });
    const { ask } = await running((host) => {
      host.route("/same", () => constant, { public: true });
      host.route("/stream", () => ({ status: 200, headers: ["content-type", "text/plain", "cache-control", "max-age=1"], body: source() }), {
        public: true,
      });
    });
    const ids = new Set<string | null>();
    for (let i = 0; i < 3; i += 1) ids.add((await ask("/probe/same")).headers.get("x-request-id"));
    expect([ids.size, constant.headers]).toEqual([3, ["content-type", "application/json; charset=utf-8"]]);
    const streamed = await ask("/probe/stream");
    expect([await streamed.text(), streamed.headers.get("cache-control"), cancelled]).toEqual(["one two", "max-age=1", 0]);
  });

  test("is no model call: no row, no event, no metric of requests, whoever calls", async () => {
    const { ask, guard } = await running(
      (host) => {
        host.route("/ok", hello, { public: true });
        host.route(
          "/no",
          () => {
            throw new GuardError("forbidden", "no");
          },
          { public: true },
        );
      },
      { monitoring: { prometheusEnabled: true } },
    );
    const heard: string[] = [];
    for (const event of ["request", "refused"] as const) guard.events.on(event, () => void heard.push(event));
    await ask("/probe/ok");
    await ask("/probe/no");
    await guard.ledger.flush();
    expect([await guard.ledger.list({}), heard]).toEqual([[], []]);
    expect((await guard.metrics())?.text).not.toContain("quotaguard_requests_total{");
  });
});

describe("what a route may be", () => {
  const refusedBy = async (add: (host: PluginHost) => void): Promise<string> => {
    const guard = createGuard({ plugins: [{ name: "probe", setup: add }], logger: silentLogger });
    open.push(() => guard.close());
    return guard.ready().then(
      () => "nothing was refused",
      (error: unknown) => (error as Error).message,
    );
  };

  test.each(["status", "", "/a/", "//", "/a//b", "/:id", "/*", "/a b", "/..", "/a/../b", "/.hidden", "/a?b", "/%2e"])(
    "no path is %j",
    async (path) => {
      expect(await refusedBy((host) => host.route(path, hello))).toContain("route needs a path such as /status");
    },
  );

  test.each<readonly [string, (host: PluginHost) => void]>([
    [
      "has a route GET /a already",
      (host) => {
        host.route("/a", hello);
        host.route("/a", hello, { public: true });
      },
    ],
    ["takes one of the methods GET, POST, PUT, PATCH, DELETE", (host) => host.route("/a", hello, { method: "TRACE" as "GET" })],
    ["has no option publik; did you mean public?", (host) => host.route("/a", hello, { publik: true } as object)],
    ["needs a step", (host) => host.route("/a", undefined as never)],
    [
      "has 256 routes",
      (host) => {
        for (let i = 0; i < 257; i += 1) host.route(`/a${i}`, hello);
      },
    ],
  ])("%s", async (message, add) => {
    expect(await refusedBy(add)).toContain(message);
  });
});

test("the value of a plugin is typed, and its routes speak for it", async () => {
  let calls = 0;
  const counter = definePlugin({
    name: "counter",
    setup: (host) => host.route("/calls", () => jsonAnswer(++calls), { public: true }),
    calls: () => calls,
  });
  const { app } = await running(() => {}, { plugins: [counter] });
  await (await fetch(`${app.url}/llm/v0/management/plugins/counter/calls`)).text();
  const typed: number = counter.calls();
  expect(typed).toBe(1);
});
