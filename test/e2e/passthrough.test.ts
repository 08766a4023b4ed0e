import express from "express";
import OpenAI, { toFile } from "openai";
import { createGuard, quotaGuard, type GuardOptions, type QuotaGuard } from "quotaguard";
import { afterEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { KEY, listen, OTHER_KEY, UPSTREAM_KEY, type Listening } from "../helpers/app.ts";
import { bodyOf, json, scriptedProvider, type ScriptedProvider } from "../middleware/passthrough/provider-kit.ts";

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

interface Gateway {
  readonly provider: ScriptedProvider;
  readonly guard: QuotaGuard;
  readonly app: Listening;
  client(key?: string): OpenAI;
}

/** The whole gateway at `/llm` of a host's app, in front of a provider that a test scripts. */
async function gateway(more: GuardOptions = {}, others: readonly ScriptedProvider[] = []): Promise<Gateway> {
  const provider = await scriptedProvider();
  const handler = quotaGuard({
    auth: {
      keys: [
        { name: "alice", key: KEY, scopes: { user: "alice" } },
        { name: "bob", key: OTHER_KEY, scopes: { user: "bob" } },
      ],
    },
    credentials: [provider, ...others].map(({ url }, index) => ({
      name: index === 0 ? "main" : `other-${index}`,
      provider: "openai",
      apiKey: UPSTREAM_KEY,
      baseUrl: url,
    })),
    ...more,
  });
  await handler.ready();
  const app = express();
  app.use("/llm", handler);
  app.use((_req, res) => void res.status(418).json({ from: "the host" }));
  const listening = await listen(app);
  listening.server.on("upgrade", handler.upgrade);
  cleanups.push(() => listening.close());
  cleanups.push(() => handler.close());
  return {
    provider,
    guard: handler.guard,
    app: listening,
    client: (key = KEY) => new OpenAI({ baseURL: `${listening.url}/llm/v1`, apiKey: key, maxRetries: 0 }),
  };
}

const upload = { id: "file-1", object: "file", bytes: 3, filename: "a.jsonl", purpose: "batch", created_at: 1, status: "processed" };

describe("the official client", () => {
  test("uploads a file, gets it back, and nobody else does", async () => {
    const { provider, client } = await gateway();
    provider.on("POST /v1/files", async (req, res, seen) => {
      await bodyOf(req);
      await json(upload)(req, res, seen);
    });
    provider.on("GET /v1/files/file-1", json(upload));
    provider.on("GET /v1/files/file-1/content", (_req, res) => void res.end("abc"));
    const made = await client().files.create({ file: await toFile(Buffer.from("abc"), "a.jsonl"), purpose: "batch" });
    expect(made.id).toBe("file-1");
    expect(await (await client().files.content("file-1")).text()).toBe("abc");
    await expect(client(OTHER_KEY).files.retrieve("file-1")).rejects.toMatchObject({ status: 404, code: "not_found" });
    for (const { headers, body } of provider.log) {
      expect(headers.authorization).toBe(`Bearer ${UPSTREAM_KEY}`);
      expect(JSON.stringify(headers) + body).not.toContain(KEY);
    }
  });

  test("makes an image by an alias, metered by the usage in the answer", async () => {
    const { provider, client, guard } = await gateway({
      modelAlias: { painter: "gpt-image-1" },
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 10_000, refillPerSec: 1 } }],
      passthrough: { cost: { "/v1/images/*": { tokens: 5_000 } } },
    });
    provider.on(
      "POST /v1/images/generations",
      json({ created: 1, data: [{ b64_json: "aGk=" }], usage: { input_tokens: 40, output_tokens: 1_000, total_tokens: 1_040 } }),
    );
    const response = await client().images.generate({ model: "painter", prompt: "a cat" }).asResponse();
    expect(response.headers.get("ratelimit")).toContain('"user-tokens"');
    await response.text();
    expect(JSON.parse(provider.log[0]?.body ?? "")).toEqual({ model: "gpt-image-1", prompt: "a cat" });
    const row = await guard.ledger.get(response.headers.get("x-request-id") as string);
    expect(row).toMatchObject({
      state: "settled",
      route: "/v1/images/*",
      model: "painter",
      servedModel: "gpt-image-1",
      credential: "main",
      usage: { inputTokens: 40, outputTokens: 1_000 },
    });
    expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBeCloseTo(10_000 - 1_040, -2);
  });

  test("is refused under a token limit that nothing can be held in, before anything is sent", async () => {
    const { provider, client } = await gateway({
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 10_000, refillPerSec: 1 } }],
    });
    const refused = client().images.generate({ model: "gpt-image-1", prompt: "a cat" });
    await expect(refused).rejects.toMatchObject({ status: 400, code: "model_not_priced" });
    expect(provider.log).toEqual([]);
  });
});

describe("a model call that names a file", () => {
  const asking = (name: string) => ({
    model: "gpt-4o-mini",
    messages: [{ role: "user" as const, content: [{ type: "file" as const, file: { file_id: name } }] }],
  });
  const answer = { id: "c1", object: "chat.completion", choices: [], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } };

  test("is its owner's only, and goes to the account that holds it", async () => {
    const others = await Promise.all([scriptedProvider(), scriptedProvider()]);
    const { provider, client, app } = await gateway({}, others);
    const all = [provider, ...others];
    for (const each of all) {
      each.on("POST /v1/files", async (req, res, seen) => {
        await bodyOf(req);
        await json(upload)(req, res, seen);
      });
      each.on("POST /v1/chat/completions", json(answer));
    }
    await client().files.create({ file: await toFile(Buffer.from("abc"), "a.jsonl"), purpose: "user_data" });
    for (let i = 0; i < 3; i += 1) expect((await client().chat.completions.create(asking("file-1"))).id).toBe("c1");
    // Three accounts would be taken in turn; this file is at one of them.
    expect(all.map(({ log }) => log.length).toSorted((a, b) => a - b)).toEqual([0, 0, 4]);
    await expect(client(OTHER_KEY).chat.completions.create(asking("file-1"))).rejects.toMatchObject({ status: 404, code: "not_found" });
    await expect(client().chat.completions.create(asking("file-made-elsewhere"))).rejects.toMatchObject({ status: 404 });
    // A letter of the name may be escaped.
    const escaped = JSON.stringify(asking("file-1")).replace('"file_id"', String.raw`"file\u005fid"`);
    const hidden = await fetch(`${app.url}/llm/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${OTHER_KEY}` },
      body: escaped,
    });
    expect(hidden.status).toBe(404);
    expect(all.flatMap(({ log }) => log)).toHaveLength(4);
  });
});

describe("in a host's app", () => {
  test("what is not ours stays the host's, also with everything switched off", async () => {
    const { app } = await gateway();
    expect((await fetch(`${app.url}/llm/v1/assistants`)).status).toBe(418);
    const off = await gateway({ passthrough: false });
    expect((await fetch(`${off.app.url}/llm/v1/files`)).status).toBe(418);
    // Nobody else listens for upgrades, so this one must be answered all the same.
    const socket = new WebSocket(`${off.app.url.replace("http", "ws")}/llm/v1/realtime`);
    const status = await new Promise((resolve) => {
      socket.once("unexpected-response", (_request, response) => resolve(response.statusCode));
      socket.once("error", () => undefined);
    });
    expect(status).toBe(404);
  });

  test("a WebSocket goes through the mount's upgrade, and counts while it is open", async () => {
    const { provider, app, guard } = await gateway({
      limits: [{ name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 1 } }],
    });
    provider.onSocket((socket) => socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })));
    const url = `${app.url.replace("http", "ws")}/llm/v1/realtime?model=gpt-realtime`;
    const open = (): WebSocket => new WebSocket(url, { headers: { authorization: `Bearer ${KEY}` } });
    const socket = open();
    const echoed = new Promise((resolve) => void socket.once("message", (data: Buffer) => resolve(data.toString())));
    socket.once("open", () => socket.send("hello"));
    expect(await echoed).toBe("hello");
    expect(guard.admin.health()).toMatchObject({ openRequests: 1, credentials: [{ inFlight: 1 }] });
    const second = open();
    const status = await new Promise((resolve) => {
      second.once("unexpected-response", (_request, response) => resolve(response.statusCode));
      second.once("error", () => undefined);
    });
    expect(status).toBe(429);
    const closed = new Promise((resolve) => void socket.once("close", resolve));
    socket.close(1000);
    expect(await closed).toBe(1000);
    while (guard.admin.health().openRequests > 0) await new Promise(setImmediate);
    expect(guard.admin.health().credentials[0]?.inFlight).toBe(0);
  });

  test("as a part behind the others, on a path of the host's own", async () => {
    const provider = await scriptedProvider();
    provider.on("POST /v1/audio/speech", (_req, res) => void res.writeHead(200, { "content-type": "audio/mpeg" }).end("sound"));
    const guard = createGuard({
      auth: { keys: [{ name: "alice", key: KEY }] },
      credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: provider.url }],
      limits: [{ name: "calls", scope: "global", unit: "requests", bucket: { capacity: 1, refillPerSec: 0 } }],
    });
    cleanups.push(() => guard.close());
    const app = express();
    app.use("/api/v1/audio", guard.fail2ban(), guard.auth(), guard.scopes(), guard.budgets(), guard.passthrough());
    const listening = await listen(app);
    cleanups.push(() => listening.close());
    const say = (key: string): Promise<Response> =>
      fetch(`${listening.url}/api/v1/audio/speech`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
        body: JSON.stringify({ model: "tts-1", input: "hello" }),
      });
    expect((await say("qg-wrong-key-000000")).status).toBe(401);
    const answer = await say(KEY);
    expect([answer.status, answer.headers.get("content-type"), await answer.text()]).toEqual([200, "audio/mpeg", "sound"]);
    expect((await say(KEY)).status).toBe(429);
  });
});
