// Wherever a host mounts the gateway, it answers its own paths, once, and leaves all others alone.
import express, { Router, type ErrorRequestHandler, type Express, type RequestHandler } from "express";
import { describe, expect, onTestFinished, test } from "vitest";
import { createGuard, GuardError } from "quotaguard";
import { KEY } from "../helpers/app.ts";
import { hostApp, type Host, type ListeningHost } from "./host-kit.ts";

const CALL = JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] });
const HEADERS = { "content-type": "application/json", authorization: `Bearer ${KEY}` };

const ask = ({ url }: Pick<ListeningHost, "url">, path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(url + path, { method: "POST", headers: HEADERS, body: CALL, ...init });

async function isAnswered(host: ListeningHost, path: string): Promise<void> {
  const response = await ask(host, path);
  expect([path, response.status, await response.json()]).toMatchObject([path, 200, { object: "chat.completion" }]);
}

const notFound: RequestHandler = (_req, res) => void res.status(404).send("the host's 404");

describe.each<[string, readonly string[], (app: Express, host: Host) => void]>([
  ["at a path", ["/llm/v1/chat/completions", "/llm/chat/completions", "/LLM/v1/chat/completions"], (app, { gateway }) => app.use("/llm", gateway)],
  ["at a path with a trailing slash", ["/llm/v1/chat/completions"], (app, { gateway }) => app.use("/llm/", gateway)],
  ["at the root", ["/v1/chat/completions", "/v1/chat/completions?api-version=1"], (app, { gateway }) => app.use(gateway)],
  ["at two paths", ["/a/v1/chat/completions", "/b/c/v1/chat/completions"], (app, { gateway }) => app.use("/a", gateway).use("/b/c", gateway)],
  ["at a list of paths", ["/a/v1/chat/completions", "/b/chat/completions"], (app, { gateway }) => app.use(["/a", "/b"], gateway)],
  ["twice at one path", ["/llm/v1/chat/completions"], (app, { gateway }) => app.use("/llm", gateway, gateway)],
  ["inside a mounted app", ["/api/llm/v1/chat/completions"], (app, { gateway }) => app.use("/api", express().use("/llm", gateway))],
  ["in nested routers", ["/a/b/v1/chat/completions"], (app, { gateway }) => app.use("/a", Router().use("/b", Router().use(gateway)))],
  [
    "behind a parameter, with mergeParams",
    ["/tenants/acme/llm/v1/chat/completions"],
    (app, { gateway }) => app.use("/tenants/:tenant/llm", Router({ mergeParams: true }).use(gateway)),
  ],
  [
    "in a strict and case-sensitive router",
    ["/Llm/v1/chat/completions"],
    (app, { gateway }) => app.use(Router({ strict: true, caseSensitive: true }).use("/Llm", gateway)),
  ],
  ["by app.all and a pattern", ["/v1/chat/completions"], (app, { gateway }) => app.all("/v1/{*rest}", gateway)],
  [
    "behind a middleware that takes a prefix off the URL",
    ["/public/v1/chat/completions"],
    (app, { gateway }) => {
      app.use((req, _res, next) => {
        req.url = req.url.replace(/^\/public/, "");
        next();
      });
      app.use(gateway);
    },
  ],
  [
    "behind a middleware that rewrites below the mount",
    ["/llm/openai/v1/chat/completions"],
    (app, { gateway }) => {
      app.use("/llm", (req, _res, next) => {
        req.url = req.url.replace("/openai/", "/");
        next();
      });
      app.use("/llm", gateway);
    },
  ],
  [
    "behind guard.scopes() for the whole app",
    ["/llm/v1/chat/completions", "/llm/chat/completions"],
    (app, { guard, gateway }) => app.use(guard.auth(), guard.scopes()).use("/llm", gateway),
  ],
])("mounted %s", (_name, paths, mount) => {
  test("each call is answered and settled once, and the host's other routes are the host's", async () => {
    const host = await hostApp((app, parts) => {
      mount(app, parts);
      app.post("/orders", (_req, res) => void res.send("orders"));
      app.use(notFound);
    });
    for (const path of paths) await isAnswered(host, path);
    const [path] = paths as [string];
    const auth = { headers: { authorization: `Bearer ${KEY}` } };
    expect(await (await fetch(`${host.url}/orders`, { method: "POST", ...auth })).text()).toBe("orders");
    expect(await (await fetch(`${host.url}/health`, auth)).text()).toBe("the host's 404");
    // A path of ours with another method or another spelling.
    const head = await fetch(host.url + path, { method: "HEAD", ...auth });
    expect([head.status, head.headers.get("allow")]).toEqual([405, "POST"]);
    expect(await (await fetch(host.url + path, { method: "OPTIONS", ...auth })).text()).toMatch(/the host's 404|^GET|^POST|^$/);
    for (const other of [`${path.split("?")[0]}/`, path.replace("completions", "Completions"), path.replace("/chat", "//chat")]) {
      expect([other, (await ask(host, other)).status]).toEqual([other, 404]);
    }
    expect(host.upstream.log).toHaveLength(paths.length);
    expect((await host.settled()).filter((state) => state !== "refused")).toEqual(paths.map(() => "settled"));
  });
});

describe("a host's own routes beside it", () => {
  test("that only look alike stay the host's, whichever comes first", async () => {
    const host = await hostApp((app, { gateway }) => {
      app.use(gateway);
      for (const path of ["/v1/orders", "/chat/completions", "/v1/chat", "/v2/chat/completions"]) app.post(path, (_req, res) => void res.send(path));
    });
    for (const path of ["/v1/orders", "/chat/completions", "/v1/chat", "/v2/chat/completions"])
      expect(await (await ask(host, path)).text()).toBe(path);
    expect(await host.settled()).toEqual([]);
  });

  test("its parameters and the query are untouched when the gateway passes a request on", async () => {
    const host = await hostApp((app, { gateway }) => {
      app.use("/api/:tenant", gateway, (req, res) => void res.json([req.url, req.originalUrl, req.baseUrl, req.query]));
    });
    expect(await (await fetch(`${host.url}/api/acme/things/1?x=1`)).json()).toEqual([
      "/things/1?x=1",
      "/api/acme/things/1?x=1",
      "/api/acme",
      { x: "1" },
    ]);
  });
});

describe("a host's error middleware", () => {
  const LAST: ErrorRequestHandler = (error: Error, _req, res, _next) => void res.status(500).json({ from: "the host", name: error.name });

  test("gets what handlers throw; guard.errorHandler() before it answers refusals, also those inside an SDK's error", async () => {
    const refusal = new GuardError("budget_exhausted", "nothing is left", { retryAfterMs: 20_000, limit: "user-day" });
    const host = await hostApp((app, { guard, gateway }) => {
      app.use("/llm", gateway);
      app.get("/refused", () => {
        throw refusal;
      });
      app.get("/wrapped", async () => {
        throw new Error("the SDK's own", { cause: refusal });
      });
      app.get("/broken", () => {
        throw new TypeError("a mistake of the host's");
      });
      app.use(guard.errorHandler(), LAST);
    });
    for (const path of ["/refused", "/wrapped"]) {
      const response = await fetch(host.url + path);
      expect([response.status, response.headers.get("retry-after"), response.headers.get("x-should-retry")]).toEqual([429, "20", "false"]);
      expect(await response.json()).toMatchObject({ code: "budget_exhausted", limit: "user-day" });
    }
    expect(await (await fetch(`${host.url}/broken`)).json()).toEqual({ from: "the host", name: "TypeError" });
    // Its own refusals the gateway answers by itself: no error middleware sees them.
    expect((await ask(host, "/llm/v1/chat/completions", { headers: {} })).status).toBe(401);
  });

  test("an error of a middleware before the gateway never reaches it", async () => {
    const host = await hostApp((app, { gateway }) => {
      app.use((_req, _res, next) => next(new Error("the session store is away")));
      app.use("/llm", gateway);
      app.use(LAST);
    });
    expect([(await ask(host, "/llm/v1/chat/completions")).status, host.upstream.log.length, await host.settled()]).toEqual([500, 0, []]);
  });
});

describe("two guards on one request", () => {
  test("that charge limits of one name say so: once, with the name", async () => {
    const outer = createGuard({
      scopes: () => ({ user: "alice" }),
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", window: { limit: 5_000, per: "hour" } }],
    });
    onTestFinished(() => outer.close());
    const host = await hostApp((app, { gateway }) => app.use("/llm", outer.budgets({ limits: ["user-tokens"], cost: { tokens: 100 } }), gateway));
    for (let i = 0; i < 2; i += 1) await isAnswered(host, "/llm/v1/chat/completions");
    expect(host.codes()).toEqual(["QG_DOUBLE_CHARGE"]);
    expect(await host.settled()).toEqual(["settled", "settled"]);
  });

  test("that have the same limit charge it each, in counters of their own", async () => {
    const outer = createGuard({
      scopes: () => ({ user: "alice" }),
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 150, refillPerSec: 0 }, estimate: "expected" }],
    });
    onTestFinished(() => outer.close());
    const host = await hostApp((app, { gateway }) => app.use("/llm", outer.budgets({ limits: ["user-tokens"], cost: { tokens: 100 } }), gateway));
    await isAnswered(host, "/llm/v1/chat/completions");
    // Its own numbers: of each counter the answer's tokens are gone.
    expect(await host.settled()).toEqual(["settled"]);
    const [left] = await outer.remaining({ user: "alice" });
    const { inputTokens, outputTokens } = host.upstream.totals();
    expect(left?.used).toBe(inputTokens + outputTokens);
    expect(host.codes()).toEqual(["QG_DOUBLE_CHARGE"]);
  });

  test("that charge limits of different names do not", async () => {
    const outer = createGuard({
      scopes: () => ({ user: "alice" }),
      limits: [{ name: "app-requests", scope: "user", unit: "requests", window: { limit: 5, per: "hour" } }],
    });
    onTestFinished(() => outer.close());
    const host = await hostApp((app, { gateway }) => app.use("/llm", outer.budgets(), gateway));
    await isAnswered(host, "/llm/v1/chat/completions");
    expect([host.codes(), await host.settled()]).toEqual([[], ["settled"]]);
  });

  test("one guard's parts before its own gateway charge once, and are no reason to warn", async () => {
    const host = await hostApp((app, { guard, gateway }) => app.use("/llm", guard.auth(), guard.scopes(), guard.budgets(), gateway));
    await isAnswered(host, "/llm/v1/chat/completions");
    expect([host.codes(), await host.settled()]).toEqual([[], ["settled"]]);
  });
});
