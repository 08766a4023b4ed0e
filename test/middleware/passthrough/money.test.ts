// What operations of the lane are charged: requests and slots always, tokens and money as the operator and the answers say.
import { describe, expect, test } from "vitest";
import type { Pricer } from "../../../src/core/context.ts";
import { passthroughCosts } from "../../../src/middleware/passthrough/costs.ts";
import { contextWith, kit as contextKit, refusalOf } from "../../core/context-kit.ts";
import { credential } from "../../pool/pool-kit.ts";
import { BOB, laneKit, limit, type CallInit, type LaneKit } from "./lane-kit.ts";
import { bodyOf, json, type Script } from "./provider-kit.ts";

const USD = 1_000_000_000;
const IMAGE: CallInit = { json: { model: "gpt-image-1", prompt: "x" } };
const image = (kit: LaneKit, init: CallInit = IMAGE) => kit.call("POST", "/v1/images/generations", init);
const form = (): FormData => {
  const data = new FormData();
  data.set("model", "whisper-1");
  return data;
};

const answered = async (response: Response) => {
  const text = await response.text();
  return response.status === 200 ? 200 : (JSON.parse(text) as { error: { code: string } }).error.code;
};

/** Three nano-USD a token, for one model. */
const pricer: Pricer = {
  cost(model, _credential, usage) {
    const nanoUsd = 3 * (usage.inputTokens + usage.outputTokens);
    return model === "gpt-image-1" ? { rawNanoUsd: nanoUsd, billedNanoUsd: nanoUsd, priceVersion: "v1" } : null;
  },
  of: () => pricer,
};

describe("requests and slots", () => {
  test("are charged for everything, and their limits are told", async () => {
    const kit = await laneKit({ limits: [limit({ unit: "requests", kind: { bucket: { capacity: 2, refillPerSec: 0 } } })] });
    kit.provider.on("*", json({ data: [] }));
    const first = await image(kit);
    expect([first.status, first.headers.get("ratelimit")]).toEqual([200, expect.stringContaining('"user-requests";r=1')]);
    expect(await answered(await kit.call("GET", "/v1/files"))).toBe(200);
    const refused = await image(kit);
    expect([await answered(refused), refused.headers.get("x-should-retry")]).toEqual(["budget_exhausted", "false"]);
    expect(await answered(await image(kit, { ...IMAGE, key: BOB }))).toBe(200);
    expect(await kit.left("user-requests")).toBe(0);
    expect(kit.provider.log.length).toBe(2);
  });

  test("a slot is held until the transfer is over", async () => {
    const kit = await laneKit({ limits: [limit({ unit: "concurrent" })] });
    const gate = Promise.withResolvers<void>();
    kit.provider.on("*", async (_req, res) => {
      res.writeHead(200, { "content-type": "audio/mpeg" });
      res.write("a");
      await gate.promise;
      res.end();
    });
    const first = await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } });
    expect(await answered(await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } }))).toBe("budget_exhausted");
    gate.resolve();
    await first.text();
    await kit.idle();
    expect(await answered(await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } }))).toBe(200);
  });

  test("come back when the provider refuses", async () => {
    const kit = await laneKit({ limits: [limit({ unit: "requests" })] });
    kit.provider.on("*", json({ error: { message: "no" } }, 400));
    await image(kit);
    expect(await kit.left("user-requests")).toBe(1_000);
  });

  test("come back when the request is refused behind the budgets", async () => {
    const kit = await laneKit({ limits: [limit({ unit: "requests" })] });
    expect(await answered(await kit.call("GET", "/v1/files/file-none"))).toBe("not_found");
    expect(await kit.left("user-requests")).toBe(1_000);
    expect(await kit.rows()).toMatchObject([{ state: "refused", code: "not_found" }]);
  });
});

describe.each(["tokens", "usd"] as const)("under a limit of %s", (unit) => {
  // One dollar is as many nano-dollars.
  const limits = [limit({ unit, kind: { bucket: { capacity: unit === "usd" ? 1 : USD, refillPerSec: 0 } } }), limit({ unit: "requests" })];

  test.each<[string, CallInit]>([
    ["POST /v1/images/generations", IMAGE],
    ["POST /v1/audio/transcriptions", { body: form() }],
    ["POST /v1/batches", { json: { input_file_id: "file-1" } }],
  ])("%s is refused where nobody said what it costs, and nothing is held", async (what, init) => {
    const kit = await laneKit({ limits });
    const [method, path] = what.split(" ") as [string, string];
    const response = await kit.call(method, path, init);
    expect([response.status, await response.json()]).toMatchObject([
      400,
      { error: { code: "model_not_priced", message: expect.stringContaining(path) } },
    ]);
    expect(kit.provider.log).toEqual([]);
    expect([await kit.left(`user-${unit}`), await kit.left("user-requests")]).toEqual([USD, 1_000]);
  });

  test("the refusal names the option that helps", async () => {
    const kit = await laneKit({ limits });
    expect(await (await image(kit)).text()).toContain("passthrough.cost");
  });

  test("what is free by nature needs no cost, and is charged as a request only", async () => {
    const kit = await laneKit({ limits });
    kit.provider.on("*", json({ id: "file-1", object: "file", data: [] }));
    expect(await answered(await kit.call("POST", "/v1/files", { body: form() }))).toBe(200);
    for (const [method, path] of [
      ["GET", "/v1/files/file-1"],
      ["GET", "/v1/files/file-1/content"],
      ["GET", "/v1/files"],
      ["DELETE", "/v1/files/file-1"],
    ] as const) {
      expect([path, await answered(await kit.call(method, path))]).toEqual([path, 200]);
    }
    expect([await kit.left(`user-${unit}`), await kit.left("user-requests")]).toEqual([USD, 995]);
    expect((await kit.rows()).map(({ state, billedNanoUsd }) => [state, billedNanoUsd])).toEqual(Array.from({ length: 5 }, () => ["settled", 0]));
  });

  test("what the operator said is held, and stays charged when the answer does not say", async () => {
    const kit = await laneKit({ limits, costs: { "/v1/images/*": { [unit]: 400 } } });
    kit.provider.on("*", json({ data: [{ url: "https://example.org/a.png" }] }));
    expect(await answered(await image(kit))).toBe(200);
    expect(await kit.left(`user-${unit}`)).toBe(USD - 400);
    expect(await kit.rows()).toMatchObject([
      { state: "estimated", provenance: "estimated", held: { [unit]: 400 }, billedNanoUsd: unit === "usd" ? 400 : null },
    ]);
  });

  test("the most particular path decides", async () => {
    const costs = { "/v1/images/*": { [unit]: 400 }, "/v1/images/generations": { [unit]: 7 }, "/v1/*": { [unit]: 1 } };
    const kit = await laneKit({ limits, costs });
    kit.provider.on("*", json({ data: [] }));
    await image(kit);
    expect(await kit.left(`user-${unit}`)).toBe(USD - 7);
    await kit.call("POST", "/v1/images/edits", { body: form() });
    expect(await kit.left(`user-${unit}`)).toBe(USD - 407);
    await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } });
    expect(await kit.left(`user-${unit}`)).toBe(USD - 408);
  });

  test("a cost that says nothing about this unit is no cost", async () => {
    const kit = await laneKit({ limits, costs: { "/v1/images/*": unit === "usd" ? { tokens: 1 } : { usd: 1 } } });
    expect(await answered(await image(kit))).toBe("model_not_priced");
  });

  test("all of it comes back when the provider refuses or breaks", async () => {
    const kit = await laneKit({ limits, costs: { "/v1/images/*": { [unit]: 400 } } });
    kit.provider.on("*", json({ error: { message: "no" } }, 500));
    await image(kit);
    kit.provider.on("*", (req) => void req.socket.destroy());
    await image(kit);
    expect(await kit.left(`user-${unit}`)).toBe(USD);
  });
});

describe("usage in the answer", () => {
  // A thousand tokens, and a thousand nano-dollars.
  const limits = [limit({ unit: "tokens" }), limit({ unit: "usd", kind: { bucket: { capacity: 1e-6, refillPerSec: 0 } } })];
  const costs = { "/v1/*": { tokens: 900, usd: 900 } };
  const sse =
    (events: readonly object[]): Script =>
    async (req, res) => {
      await bodyOf(req);
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (const event of events) {
        res.write(`event: x\ndata: ${JSON.stringify(event)}\n\n`);
        await new Promise(setImmediate);
      }
      res.end("data: [DONE]\n\n");
    };

  test.each<[string, Script]>([
    [
      "behind megabytes of an image",
      json({ created: 1, data: [{ b64_json: "A".repeat(3_000_000) }], usage: { input_tokens: 10, output_tokens: 20 }, size: "1024x1024" }),
    ],
    ["in a small answer", json({ usage: { input_tokens: 10, output_tokens: 20, input_tokens_details: { text_tokens: 10 } }, data: [] })],
    ["of a transcription", json({ text: 'he said "usage": {', usage: { type: "tokens", input_tokens: 10, output_tokens: 20, total_tokens: 30 } })],
    [
      "in the last event",
      sse([
        { type: "speech.audio.delta", audio: "A".repeat(100_000) },
        { type: "speech.audio.done", usage: { input_tokens: 10, output_tokens: 20 } },
      ]),
    ],
    [
      "behind an image in an event",
      sse([{ type: "image_generation.completed", b64_json: "A".repeat(300_000), usage: { input_tokens: 10, output_tokens: 20 } }]),
    ],
  ])("%s settles what was held", async (_what, script) => {
    const kit = await laneKit({ limits, costs, services: { pricer } });
    kit.provider.on("*", script);
    const response = await image(kit);
    await response.text();
    expect([await kit.left("user-tokens"), await kit.left("user-usd")]).toEqual([970, 910]);
    expect(await kit.rows()).toMatchObject([
      { state: "settled", provenance: "exact", usage: { inputTokens: 10, outputTokens: 20 }, billedNanoUsd: 90 },
    ]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "served", tokens: 30 } }]);
  });

  test("of a model without a price leaves the money as the operator said", async () => {
    const kit = await laneKit({ limits, costs, services: { pricer } });
    kit.provider.on("*", json({ usage: { input_tokens: 10, output_tokens: 20 } }));
    await (await image(kit, { json: { model: "other" } })).text();
    expect([await kit.left("user-tokens"), await kit.left("user-usd")]).toEqual([970, 100]);
    expect(await kit.rows()).toMatchObject([{ state: "settled", billedNanoUsd: 900 }]);
  });

  test("is looked up by the name that prices know, whatever the provider calls the model", async () => {
    const kit = await laneKit({
      limits,
      costs,
      services: { pricer },
      models: [{ name: "gpt-image-1", model: "theirs" }],
      aliases: { a: "gpt-image-1" },
    });
    kit.provider.on("*", json({ usage: { input_tokens: 10, output_tokens: 20 } }));
    await (await image(kit, { json: { model: "a" } })).text();
    expect(await kit.left("user-usd")).toBe(910);
  });

  test("in seconds is no usage that we count", async () => {
    const kit = await laneKit({ limits, costs });
    kit.provider.on("*", json({ text: "x", usage: { type: "duration", seconds: 9 } }));
    await (await kit.call("POST", "/v1/audio/transcriptions", { body: form() })).text();
    expect(await kit.left("user-tokens")).toBe(100);
  });

  test("above what was held is charged all the same", async () => {
    const kit = await laneKit({ limits, costs });
    kit.provider.on("*", json({ usage: { input_tokens: 1_000, output_tokens: 500 } }));
    await (await image(kit)).text();
    expect(await kit.left("user-tokens")).toBe(-500);
  });

  test("that came before the connection broke still counts", async () => {
    const kit = await laneKit({ limits, costs });
    kit.provider.on("*", (req, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" });
      res.write('data: {"usage":{"input_tokens":10,"output_tokens":20}}\n\n', () => setImmediate(() => req.socket.resetAndDestroy()));
    });
    const response = await image(kit);
    await response.text().catch(() => "");
    expect(await kit.left("user-tokens")).toBe(970);
  });

  test("has no say in what an audio file sounds like", async () => {
    const kit = await laneKit({ limits, costs });
    kit.provider.on(
      "*",
      (_req, res) => void res.writeHead(200, { "content-type": "audio/mpeg" }).end('{"usage":{"input_tokens":1,"output_tokens":1}}'),
    );
    await (await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } })).text();
    expect(await kit.left("user-tokens")).toBe(100);
  });
});

describe("the price list", () => {
  const { services } = contextKit();
  const costs = passthroughCosts<{ usd: number }>({ costs: { "/v1/images/*": { usd: 5 } }, amounts: (_ctx, cost) => cost });
  const at = (method: string, path: string) => contextWith(services, { method, path });

  test("never refuses for a limit that only watches", async () => {
    const needs = { units: new Set(["tokens", "usd"] as const), enforced: new Set(["usd"] as const) };
    expect(costs.costOf(at("POST", "/v1/images/generations"), null, needs)).toMatchObject({ ceiling: { usd: 5 } });
    expect(costs.costOf(at("POST", "/v1/audio/speech"), null, { ...needs, enforced: new Set() })).toMatchObject({ ceiling: {} });
    expect(refusalOf(() => costs.costOf(at("POST", "/v1/audio/speech"), null, needs)).message).toMatch(/counts usd, .*\/v1\/audio\/speech/);
    expect(refusalOf(() => costs.costOf(at("POST", "/v1/images/generations"), null, { units: needs.units })).message).toMatch(/counts tokens, /);
  });

  test.each(["/v1/images/edits", "/images/edits", "/llm/v1/images/edits"])("knows the operation behind %s", (path) => {
    expect(costs.costOf(at("POST", path), null, { units: new Set(["usd"] as const) })).toMatchObject({ ceiling: { usd: 5 }, input: { usd: 5 } });
  });

  test("does not look at what no limit counts", () => {
    expect(costs.costOf(at("POST", "/v1/batches"), null, { units: new Set(["requests", "concurrent"] as const) })).toMatchObject({ ceiling: {} });
  });
});

test("a model that only its own credential serves is sent there", async () => {
  const kit = await laneKit({
    credentials: ({ url }) => [
      credential("a", { origin: url, basePath: "/a", models: ["dall-*"] }),
      credential("b", { origin: url, basePath: "/b", models: ["gpt-*"] }),
    ],
  });
  kit.provider.on("*", json({}));
  for (let i = 0; i < 3; i += 1) await (await image(kit)).text();
  expect(kit.provider.log.map(({ url }) => url)).toEqual(Array(3).fill("/b/v1/images/generations"));
  expect(await answered(await image(kit, { json: { model: "none" } }))).toBe("model_not_found");
});
