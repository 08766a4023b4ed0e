// Other people's middlewares around the gateway: answers stay right, events are not held back, and each call is settled once.
import compression from "compression";
import cors from "cors";
import express, { type RequestHandler } from "express";
import session from "express-session";
import helmet from "helmet";
import type { ServerResponse } from "node:http";
import { describe, expect, test } from "vitest";
import { chat } from "../helpers/app.ts";
import { hostApp, pacedStream } from "./host-kit.ts";

/** As cookie-parser: reads, and writes nothing. */
const cookies: RequestHandler = (req, _res, next) => {
  Object.assign(req, { cookies: Object.fromEntries((req.headers.cookie ?? "").split(";").map((pair) => pair.trim().split("="))) });
  next();
};

/** As morgan and on-finished: waits for the end of a response, and looks at it. */
const accessLog =
  (lines: string[]): RequestHandler =>
  (req, res, next) => {
    res.once("finish", () => lines.push(`${req.method} ${req.originalUrl} ${res.statusCode} ${String(res.getHeader("content-type"))}`));
    next();
  };

/** As on-headers before 1.1, which half of npm has: headers given to writeHead are an object, or a list of pairs. */
const oldOnHeaders: RequestHandler = (_req, res, next) => {
  const writeHead = res.writeHead.bind(res) as (status: number) => ServerResponse;
  res.writeHead = function wrapped(status: number, headers?: unknown): ServerResponse {
    res.writeHead = writeHead as typeof res.writeHead;
    if (Array.isArray(headers)) for (const pair of headers as [string, string][]) res.setHeader(pair[0], pair[1]);
    else for (const [name, value] of Object.entries((headers ?? {}) as Record<string, string>)) res.setHeader(name, value);
    res.setHeader("x-response-time", "1ms");
    return writeHead(status);
  } as typeof res.writeHead;
  next();
};

const NEIGHBOURS: readonly (readonly [string, () => RequestHandler])[] = [
  ["compression()", () => compression()],
  ["compression() of everything", () => compression({ threshold: 0, filter: () => true })],
  ["express.json()", () => express.json()],
  ["express.json() that keeps rawBody", () => express.json({ verify: (req, _res, bytes) => void Object.assign(req, { rawBody: bytes }) })],
  ["express.raw()", () => express.raw({ type: "*/*" })],
  ["express.text()", () => express.text({ type: "*/*" })],
  ["express.urlencoded()", () => express.urlencoded({ extended: true })],
  ["helmet()", () => helmet()],
  ["cors()", () => cors()],
  ["express-session", () => session({ secret: "a test's", resave: true, rolling: true, saveUninitialized: true })],
  ["a cookie parser", () => cookies],
  ["an access log", () => accessLog([])],
  ["on-headers of old", () => oldOnHeaders],
];

describe.each(NEIGHBOURS)("%s", (_name, make) => {
  test.each(["before", "behind"] as const)("%s the gateway: whole, streamed and refused calls are what they are without it", async (place) => {
    const host = await hostApp((app, { gateway }) => {
      if (place === "before") app.use(make());
      app.use("/llm", gateway);
      if (place === "behind") app.use(make());
      app.get("/hello", (_req, res) => void res.json({ hello: "host" }));
    });
    const gzip = { "accept-encoding": "gzip" };
    const whole = await chat(host.url, {}, { headers: gzip });
    expect(whole.status).toBe(200);
    expect(whole.headers.get("content-type")).toContain("application/json");
    expect(whole.headers.get("x-request-id")).not.toBeNull();
    expect(await whole.json()).toMatchObject({ object: "chat.completion", usage: { prompt_tokens: 1 } });
    expect(await pacedStream(host, gzip)).toMatch(/data: \[DONE\]\n\n$/);
    const refused = await chat(host.url, {}, { key: "qg-nobody-has-this-key", headers: gzip });
    expect([refused.status, refused.headers.get("content-type")]).toEqual([401, expect.stringContaining("application/json")]);
    expect(await refused.json()).toMatchObject({ error: { code: "unauthenticated" } });
    // The host's own routes are as they were.
    expect(await (await fetch(`${host.url}/hello`)).json()).toEqual({ hello: "host" });
    expect(host.upstream.log).toHaveLength(2);
    expect(await host.settled()).toEqual(["settled", "settled"]);
  });
});

describe("what neighbours do to our answers", () => {
  const ORIGIN = "https://app.example";

  test("helmet() and cors() put their headers on whole, streamed and refused ones; browsers see what the host exposes", async () => {
    const exposed = ["RateLimit", "RateLimit-Policy", "x-request-id"];
    const host = await hostApp((app, { gateway }) => app.use(helmet(), cors({ origin: ORIGIN, exposedHeaders: exposed })).use("/llm", gateway));
    const headers = { origin: ORIGIN };
    const replies = [
      await chat(host.url, {}, { headers }),
      await chat(host.url, { stream: true }, { headers }),
      await chat(host.url, {}, { headers, key: "qg-nobody-has-this-key" }),
    ];
    expect(replies.map(({ status }) => status)).toEqual([200, 200, 401]);
    for (const reply of replies) {
      await reply.text();
      expect([reply.headers.get("x-content-type-options"), reply.headers.get("access-control-allow-origin")]).toEqual(["nosniff", ORIGIN]);
      expect(reply.headers.get("access-control-expose-headers")).toBe(exposed.join(","));
    }
    expect(replies[0]?.headers.get("ratelimit-policy")).toContain('"user-tokens"');
    expect(await host.settled()).toEqual(["settled", "settled"]);
  });

  test.each(["before", "behind"])("a preflight is answered by cors() %s the gateway, and never by it", async (place) => {
    const host = await hostApp((app, { gateway }) => {
      if (place === "before") app.use(cors({ origin: ORIGIN }));
      app.use("/llm", gateway);
      if (place === "behind") app.use(cors({ origin: ORIGIN }));
    });
    for (const path of ["/llm/v1/chat/completions", "/llm/v1/models", "/llm/v1/files"]) {
      const preflight = await fetch(host.url + path, { method: "OPTIONS", headers: { origin: ORIGIN, "access-control-request-method": "POST" } });
      expect([path, preflight.status, preflight.headers.get("access-control-allow-origin")]).toEqual([path, 204, ORIGIN]);
    }
    expect(await host.settled()).toEqual([]);
  });

  test("compression() packs whole answers, and they are the same", async () => {
    const host = await hostApp((app, { gateway }) => app.use(compression({ threshold: 0 })).use("/llm", gateway));
    const reply = await chat(host.url, {}, { headers: { "accept-encoding": "gzip" } });
    expect([reply.headers.get("content-encoding"), reply.headers.get("content-length")]).toEqual(["gzip", null]);
    expect(await reply.json()).toMatchObject({ object: "chat.completion" });
    expect(await host.settled()).toEqual(["settled"]);
  });

  test("express-session sets its cookie, saves what earlier middlewares stored, and is touched by the next call", async () => {
    const store = new session.MemoryStore();
    const touched: string[] = [];
    const touch = store.touch.bind(store);
    store.touch = (id, data, done) => {
      touched.push(id);
      touch(id, data, done);
    };
    const host = await hostApp((app, { gateway }) => {
      app.use(session({ secret: "a test's", resave: false, saveUninitialized: false, store }));
      app.use((req, _res, next) => {
        Object.assign(req.session, { calls: 1 });
        next();
      });
      app.use("/llm", gateway);
    });
    const sessions = (): Promise<readonly unknown[]> =>
      new Promise((resolve) => {
        store.all((_error, all) => resolve(Object.values(all ?? {})));
      });
    const first = await chat(host.url);
    await first.json();
    const cookie = first.headers.get("set-cookie")?.split(";")[0] as string;
    expect(cookie).toContain("connect.sid=");
    expect(await sessions()).toMatchObject([{ calls: 1 }]);
    for (const body of [{}, { stream: true }]) {
      const next = await chat(host.url, body, { headers: { cookie } });
      expect([next.status, next.headers.get("set-cookie"), (await next.text()).length > 0]).toEqual([200, null, true]);
    }
    expect([touched.length, (await sessions()).length]).toEqual([2, 1]);
    expect(await host.settled()).toEqual(["settled", "settled", "settled"]);
  });

  test("an access log has one line for each, with the status that was sent", async () => {
    const lines: string[] = [];
    const host = await hostApp((app, { gateway }) => app.use(accessLog(lines)).use("/llm", gateway));
    await (await chat(host.url)).json();
    await (await chat(host.url, { stream: true })).text();
    await (await chat(host.url, {}, { key: "qg-nobody-has-this-key" })).json();
    expect(lines).toEqual([
      expect.stringMatching(/^POST \/llm\/v1\/chat\/completions 200 /),
      expect.stringMatching(/^POST \/llm\/v1\/chat\/completions 200 /),
      expect.stringMatching(/^POST \/llm\/v1\/chat\/completions 401 /),
    ]);
    expect(await host.settled()).toEqual(["settled", "settled"]);
  });
});
