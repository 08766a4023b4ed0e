import express from "express";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/core/context.ts";
import { GuardError } from "../../src/core/errors.ts";
import type { Step } from "../../src/core/step.ts";
import { gatewayHandler, partHandler, type OnRefused } from "../../src/http/handler.ts";
import { cleanRequestId, knownContext } from "../../src/http/open.ts";
import { opening, rawClient, serve } from "./server-kit.ts";

const OK: Step = () => ({ status: 200, headers: ["content-type", "text/plain"], body: Buffer.from("ours") });
const refuses: Step = () => {
  throw new GuardError("banned", "no", { retryAfterMs: 900_000 });
};
const CHAT = { method: "POST", body: '{"model":"gpt-4o","messages":[]}' };

async function gateway(call: Step, options: Parameters<typeof opening>[0] = {}) {
  const opened: Context[] = [];
  const made = opening({ onOpen: (ctx) => void opened.push(ctx), ...options });
  const app = express();
  app.use("/llm", gatewayHandler({ call, models: () => ({ status: 200, headers: [], body: Buffer.from("models") }) }, made.options));
  app.use((_req, res) => void res.status(418).end("host"));
  return { ...(await serve(app)), opened, logger: made.logger, services: made.services };
}

describe("the mounted gateway", () => {
  test.each([
    ["POST", "/llm/v1/chat/completions", 200, "ours"],
    ["POST", "/llm/chat/completions", 200, "ours"],
    ["POST", "/llm/v1/embeddings?x=/v1/models", 200, "ours"],
    ["GET", "/llm/v1/models", 200, "models"],
    ["GET", "/llm/models/gpt-4o", 200, "models"],
    ["POST", "/llm/v1/unknown", 418, "host"],
    ["GET", "/llm", 418, "host"],
    ["POST", "/v1/chat/completions", 418, "host"],
    ["OPTIONS", "/llm/v1/chat/completions", 418, "host"],
  ])("%s %s is %i", async (method, path, status, text) => {
    const { url } = await gateway(OK);
    const response = await fetch(url + path, { method });
    expect([response.status, await response.text()]).toEqual([status, text]);
  });

  test("refuses another method and names the right one", async () => {
    const { url } = await gateway(OK);
    const response = await fetch(`${url}/llm/v1/chat/completions`);
    expect([response.status, response.headers.get("allow")]).toEqual([405, "POST"]);
    expect(await response.json()).toMatchObject({ error: { code: "method_not_allowed" } });
  });

  test("opens one context a request, below the mount, and closes it with the response", async () => {
    const { url, opened } = await gateway(OK);
    const closed = Promise.withResolvers<Context>();
    const made = fetch(`${url}/llm/v1/chat/completions?a=1`, { ...CHAT, headers: { "x-request-id": "mine-1", "x-team-id": "data" } });
    const response = await made;
    const [ctx] = opened as [Context];
    ctx.after((of) => closed.resolve(of));
    if (!ctx.closed) await closed.promise;
    expect(ctx).toMatchObject({
      id: "id-1",
      requestId: "mine-1",
      method: "POST",
      path: "/v1/chat/completions",
      route: "/v1/chat/completions",
      carriesCall: true,
      gone: false,
    });
    expect([ctx.headers["x-team-id"], ctx.outcome, response.headers.get("x-request-id"), opened.length]).toEqual([
      "data",
      { status: 200, code: null, error: null },
      "mine-1",
      1,
    ]);
  });

  test("answers a refusal in the caller's dialect, and tells listeners", async () => {
    const { url, opened, services } = await gateway(refuses);
    const heard: unknown[] = [];
    services.events.on("refused", ({ requestId, error }) => void heard.push([requestId, error.code]));
    const response = await fetch(`${url}/llm/v1/chat/completions`, CHAT);
    expect(response.status).toBe(403);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "retry-after": "900",
      "x-should-retry": "false",
      "x-request-id": "id-1",
      connection: "close",
    });
    expect(await response.json()).toMatchObject({ error: { code: "banned", request_id: "id-1", type: "permission_error" } });
    expect(heard).toEqual([["id-1", "banned"]]);
    expect(opened[0]?.failure).toMatchObject({ code: "banned" });
  });

  test("shows nothing of a fault of ours", async () => {
    const { url, logger } = await gateway(() => Promise.reject(new Error("canary")));
    const response = await fetch(`${url}/llm/v1/chat/completions`, CHAT);
    expect([response.status, (await response.text()).includes("canary")]).toEqual([500, false]);
    expect(logger.lines).toMatchObject([{ level: "error", fields: { err: { message: "canary" } } }]);
  });

  test("reads the call below the body limit, and not above", async () => {
    const read: Step = async (ctx) => ({ status: 200, headers: [], body: Buffer.from((await ctx.call()).model) });
    const { url } = await gateway(read);
    expect(await (await fetch(`${url}/llm/chat/completions`, CHAT)).text()).toBe("gpt-4o");
    const large = await fetch(`${url}/llm/chat/completions`, { method: "POST", body: JSON.stringify({ model: "m", messages: ["x".repeat(1_000)] }) });
    expect([large.status, await large.json()]).toMatchObject([413, { error: { code: "body_too_large" } }]);
  });

  test("refuses before any step what the guard does not admit", async () => {
    let steps = 0;
    const { url } = await gateway(() => void (steps += 1), {
      onOpen: () => {
        throw new GuardError("overloaded", "shutting down", { retryAfterMs: 1_000 });
      },
    });
    const response = await fetch(`${url}/llm/v1/chat/completions`, CHAT);
    expect([response.status, response.headers.get("retry-after"), steps]).toEqual([503, "1", 0]);
  });

  test("notes that a client left", async () => {
    const gate = Promise.withResolvers<void>();
    const { port, opened } = await gateway(async () => {
      await gate.promise;
    });
    const client = await rawClient(port, "POST /llm/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    while (opened.length === 0) await new Promise(setImmediate);
    const [ctx] = opened as [Context];
    const closed = new Promise<void>((resolve) => ctx.after(() => resolve()));
    client.socket.destroy();
    await closed;
    expect([ctx.gone, ctx.outcome]).toEqual([true, { status: 499, code: "client_closed", error: null }]);
    gate.resolve();
  });
});

test.each<[unknown, string]>([
  ["abc-1", "abc-1"],
  ["a".repeat(128), "a".repeat(128)],
  ["a".repeat(129), "id"],
  ["a b", "id"],
  ["a\nb", "id"],
  ["", "id"],
  ["имя", "id"],
  [["a", "b"], "id"],
  [undefined, "id"],
])("the request id %j becomes %j", (given, expected) => {
  expect(cleanRequestId(given, "id")).toBe(expected);
});

describe("a part on the host's own route", () => {
  async function host(step: Step, onRefused?: OnRefused, path = "/users/:id/summary") {
    const { options, logger } = opening();
    const app = express();
    const seen: { ctx: Context | undefined; errors: unknown[] } = { ctx: undefined, errors: [] };
    app.post(path, partHandler("budgets", step, options, { onRefused }), (req, res) => {
      seen.ctx = knownContext(req);
      res.end("host");
    });
    app.use(((error, _req, res, _next) => {
      seen.errors.push(error);
      res.status(555).end();
    }) satisfies express.ErrorRequestHandler);
    return { ...(await serve(app)), seen, logger };
  }

  test("lets the host answer, with what the steps want to say", async () => {
    const { url, seen } = await host((ctx) => ctx.reply("ratelimit", '"a";r=1'));
    const response = await fetch(`${url}/users/7/summary`, CHAT);
    expect([response.status, await response.text(), response.headers.get("ratelimit")]).toEqual([200, "host", '"a";r=1']);
    expect([seen.ctx?.route, seen.ctx?.carriesCall]).toEqual(["/users/:id/summary", false]);
  });

  test("refuses with a problem", async () => {
    const { url } = await host(refuses);
    const response = await fetch(`${url}/users/7/summary`, CHAT);
    expect([response.status, response.headers.get("content-type"), response.headers.get("retry-after")]).toEqual([
      403,
      "application/problem+json; charset=utf-8",
      "900",
    ]);
    expect(await response.json()).toMatchObject({ code: "banned", detail: "no", request_id: "id-1" });
  });

  test("knows a model call below any prefix, and refuses it in its dialect", async () => {
    const { url } = await host(refuses, undefined, "/api/v1/chat/completions");
    expect(await (await fetch(`${url}/api/v1/chat/completions`, CHAT)).json()).toMatchObject({ error: { code: "banned" } });
  });

  test("lets the host say it in its own words", async () => {
    const { url } = await host(refuses, (error, _req, res) => {
      res.statusCode = 402;
      res.end(error.code);
    });
    const response = await fetch(`${url}/users/7/summary`, CHAT);
    expect([response.status, await response.text()]).toEqual([402, "banned"]);
  });

  test.each<[string, Step]>([
    ["at once", refuses],
    ["later", () => Promise.reject(new GuardError("banned", "no"))],
  ])("hands a fault in those words to the host's error handler, refused %s", async (_name, step) => {
    const others = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    const unhandled: unknown[] = [];
    process.on("unhandledRejection", (reason) => unhandled.push(reason));
    try {
      const { url, seen } = await host(step, () => {
        throw new Error("host fault");
      });
      const response = await fetch(`${url}/users/7/summary`, { ...CHAT, signal: AbortSignal.timeout(2_000) }).catch(() => null);
      expect(unhandled).toEqual([]);
      expect([response?.status, (seen.errors[0] as Error | undefined)?.message]).toEqual([555, "host fault"]);
    } finally {
      process.removeAllListeners("unhandledRejection");
      for (const listener of others) process.on("unhandledRejection", listener);
    }
  });

  test("shares one context with the parts before and behind it", async () => {
    const { options } = opening();
    const seen = new Set<Context>();
    const note: Step = (ctx) => void seen.add(ctx);
    const app = express();
    app.post("/x", partHandler("a", note, options), partHandler("b", note, options), (_req, res) => void res.end());
    const { url } = await serve(app);
    await fetch(`${url}/x`, CHAT);
    expect(seen.size).toBe(1);
  });

  test("is named after itself and carries its step", () => {
    const handler = partHandler("budgets", OK, opening().options);
    expect([handler.name, handler.step]).toEqual(["budgets", OK]);
  });
});
