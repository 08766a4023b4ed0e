import { afterEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeReply, type FakeUpstream, type FakeUpstreamOptions, type TestClock } from "quotaguard/testing";
import type { Answer } from "../../src/core/answer.ts";
import type { Credential } from "../../src/core/credential.ts";
import type { Principal } from "../../src/core/context.ts";
import { Secret } from "../../src/core/secret.ts";
import { isPromise } from "../../src/core/time.ts";
import { modelsStep, type ModelsStep } from "../../src/middleware/models.ts";
import { modelCatalogue, type ModelCatalogue } from "../../src/pool/catalogue.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { offers, type ModelEntry } from "../../src/pool/offers.ts";
import { undiciTransport } from "../../src/upstream/transport.ts";
import { contextWith, kit, keptLogger, rejectionOf, type Line } from "../core/context-kit.ts";
import { credential } from "../pool/pool-kit.ts";

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

async function provider(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const upstream = await fakeUpstream(options);
  opened.push(upstream);
  return upstream;
}

/** A credential at a provider; it needs no key unless one is given. */
const at = (name: string, upstream: { readonly url: string }, more: Partial<Credential> = {}): Credential =>
  credential(name, { provider: "openai-compatible", origin: upstream.url, apiKey: null, ...more });

interface Listed {
  readonly id: string;
  readonly object: string;
  readonly created: number;
  readonly owned_by: string;
}

interface Desk {
  readonly clock: TestClock;
  readonly step: ModelsStep;
  readonly catalogue: ModelCatalogue;
  readonly lines: readonly Line[];
  /** The answer as the step gives it. */
  ask(path?: string, models?: readonly string[] | null, headers?: Readonly<Record<string, string>>): Answer | Promise<Answer>;
  list(models?: readonly string[] | null): Promise<readonly Listed[]>;
  ids(models?: readonly string[] | null): Promise<readonly string[]>;
}

function desk(
  credentials: readonly Credential[],
  { models = [], aliases = {} }: { models?: readonly ModelEntry[]; aliases?: Record<string, string> } = {},
): Desk {
  const { clock, services } = kit();
  const logger = keptLogger();
  const transport = undiciTransport({ connectTimeoutMs: 5_000, clock });
  opened.push(transport);
  const set = credentialSet(credentials);
  const catalogue = modelCatalogue(set);
  const offered = offers({ credentials: set, models, aliases, lists: catalogue });
  const step = modelsStep({ offers: offered, catalogue, models, aliases, transport, clock, logger });
  const ask: Desk["ask"] = (path = "", allowed = null, headers = {}) => {
    const ctx = contextWith(services, { method: "GET", path: path.startsWith("/v1") ? path : `/v1/models${path}`, headers });
    ctx.principal = { kind: "key", name: "k", scopes: {}, models: allowed, mayAssertScopes: false } satisfies Principal;
    return step(ctx) as Answer | Promise<Answer>;
  };
  const list: Desk["list"] = async (allowed) => (bodyOf(await ask("", allowed)) as { readonly data: readonly Listed[] }).data;
  return { clock, step, catalogue, lines: logger.lines, ask, list, ids: async (allowed) => (await list(allowed)).map(({ id }) => id) };
}

const bodyOf = ({ body }: Answer): unknown => JSON.parse((body as Buffer).toString());

describe("in the caller's dialect", () => {
  const listing = () => desk([credential("one", { models: ["gpt-4o", "vendor/model"], provider: "openai-compatible" })]);
  const version = { "anthropic-version": "2023-06-01" };

  test("Anthropic's", async () => {
    const { ask, clock } = listing();
    const created = `${new Date(clock.now()).toISOString().slice(0, 19)}Z`;
    const shown = (id: string) => ({ type: "model", id, display_name: id, created_at: created });
    expect(bodyOf(await ask("", null, version))).toEqual({
      data: [shown("gpt-4o"), shown("vendor/model")],
      has_more: false,
      first_id: "gpt-4o",
      last_id: "vendor/model",
    });
    expect(bodyOf(await ask("/vendor%2Fmodel", null, version))).toEqual(shown("vendor/model"));
    expect(bodyOf(await ask("", ["nothing"], version))).toEqual({ data: [], has_more: false, first_id: null, last_id: null });
  });

  test("Gemini's", async () => {
    const { ask } = listing();
    const supportedGenerationMethods = ["generateContent", "streamGenerateContent", "countTokens"];
    const shown = (id: string) => ({ name: `models/${id}`, displayName: id, supportedGenerationMethods });
    expect(bodyOf(await ask("/v1beta/models"))).toEqual({ models: [shown("gpt-4o"), shown("vendor/model")] });
    expect(bodyOf(await ask("/v1beta/models/gpt-4o"))).toEqual(shown("gpt-4o"));
  });
});

describe("the list", () => {
  test("joins what is configured and what each provider lists, each name once", async () => {
    const [one, two, three] = [
      await provider({ models: ["gpt-4o", "gpt-4o-mini", "internal-model"] }),
      await provider({ models: ["gpt-4o", "llama-3", "llama-2"] }),
      await provider(),
    ];
    const { ask } = desk([at("one", one, { models: ["gpt-*"] }), at("two", two), at("three", three, { models: ["named-here"] })], {
      models: [{ name: "my-model", model: "llama-3", credential: "two" }],
      aliases: { fast: "gpt-4o-mini" },
    });
    const answer = await ask();
    expect([answer.status, answer.headers]).toEqual([200, ["content-type", "application/json; charset=utf-8"]]);
    const { object, data } = bodyOf(answer) as { object: string; data: Listed[] };
    expect(object).toBe("list");
    expect(data.map(({ id }) => id)).toEqual(["my-model", "named-here", "gpt-4o", "gpt-4o-mini", "llama-2"]);
    expect(data[0]).toEqual({ id: "my-model", object: "model", created: 1_700_000_000, owned_by: "fake" });
    // What no provider was asked for exists since the gateway does, and belongs to the provider.
    expect(data[1]).toEqual({ id: "named-here", object: "model", created: Date.UTC(2026, 0, 1) / 1_000, owned_by: "openai-compatible" });
    // A credential whose models are all named is not asked.
    expect([one.log.length, two.log.length, three.log.length]).toEqual([1, 1, 0]);
    expect(one.log[0]).toMatchObject({ method: "GET", path: "/v1/models" });
  });

  test("asks with the credential's own key", async () => {
    const upstream = await provider({ keys: ["sk-right"], models: ["m"] });
    const { ids } = desk([at("a", upstream, { apiKey: new Secret("sk-right") })]);
    expect(await ids()).toEqual(["m"]);
  });

  test("skips what is no name of a model, and believes no odd dates and owners", async () => {
    const upstream = await provider();
    const data = [
      { id: "good", created: 5, owned_by: "them" },
      { id: "bare" },
      { id: "odd", created: "yesterday", owned_by: "two\nlines" },
      { id: "older than time", created: -1, owned_by: 7 },
      { id: 7 },
      { id: "" },
      { id: "with\u001b[31mcolour" },
      { id: "x".repeat(257) },
      null,
      "text",
    ];
    upstream.script({ body: { object: "list", data } });
    const startedAt = Date.UTC(2026, 0, 1) / 1_000;
    const model = (id: string) => ({ id, object: "model", created: startedAt, owned_by: "openai-compatible" });
    expect(await desk([at("a", upstream)]).list()).toEqual([
      model("bare"),
      { id: "good", object: "model", created: 5, owned_by: "them" },
      model("odd"),
      model("older than time"),
    ]);
  });

  test("holds what a key may use", async () => {
    const { ids } = desk([at("a", await provider({ models: ["gpt-4o", "gpt-4o-mini", "o1"] }))]);
    expect(await ids(["*-mini", "o*"])).toEqual(["gpt-4o-mini", "o1"]);
    expect(await ids([])).toEqual([]);
  });
});

describe("one model", () => {
  const names = ["gpt-4o", "meta/llama-3", "accounts/x/models/llama-3", "ünï"];

  test.each([
    ["its id", "/gpt-4o", "gpt-4o"],
    ["an id with a slash", "/meta/llama-3", "meta/llama-3"],
    ["an id whose slash is encoded", "/meta%2Fllama-3", "meta/llama-3"],
    ["an id that holds the path's own words", "/accounts/x/models/llama-3", "accounts/x/models/llama-3"],
    ["an id that is not ASCII", "/%C3%BCn%C3%AF", "ünï"],
    ["an alias", "/fast", "fast"],
    ["its provider and id", "/openai-compatible:gpt-4o", "openai-compatible:gpt-4o"],
  ])("by %s", async (_what, path, id) => {
    const { ask } = desk([at("a", await provider({ models: names }))], { aliases: { fast: "gpt-4o" } });
    expect(bodyOf(await ask(path))).toEqual({ id, object: "model", created: 1_700_000_000, owned_by: "fake" });
  });

  test.each([
    ["an unknown id", "/nothing"],
    ["an id that cannot be read", "/%zz"],
  ])("%s is 404", async (_what, path) => {
    const { ask } = desk([at("a", await provider({ models: names }))]);
    expect(await rejectionOf((async () => ask(path))())).toMatchObject({ code: "model_not_found", status: 404, param: "model" });
  });

  test("may be asked for by who may use it: by the name asked for, or by what it stands for", async () => {
    const { ask } = desk([at("a", await provider({ models: names }))], { aliases: { fast: "gpt-4o" } });
    for (const models of [["fast"], ["gpt-*"]]) expect(bodyOf(await ask("/fast", models))).toMatchObject({ id: "fast" });
    for (const [path, models] of [
      ["/fast", ["meta/*"]],
      ["/gpt-4o", ["fast"]],
    ] as const)
      expect((await rejectionOf((async () => ask(path, models))())).code).toBe("model_not_found");
  });
});

describe("a provider that fails", () => {
  test("takes nothing from the others, and is asked again after half a minute", async () => {
    const [one, two] = [await provider({ models: ["gpt-4o"] }), await provider({ models: ["llama-3"] })];
    one.script([{ status: 500 }]);
    const { ids, clock, step } = desk([at("one", one), at("two", two)]);
    expect(await ids()).toEqual(["llama-3"]);
    clock.advance(29_999);
    await ids();
    expect(one.log).toHaveLength(1);
    clock.advance(1);
    await ids();
    await step.refresh();
    expect(await ids()).toEqual(["gpt-4o", "llama-3"]);
    expect([one.log.length, two.log.length]).toEqual([2, 1]);
  });

  test("keeps its last good list for as long as it fails", async () => {
    const [one, two] = [await provider({ models: ["gpt-4o"] }), await provider({ models: ["llama-3"] })];
    const { ids, clock, step } = desk([at("one", one), at("two", two)]);
    expect(await ids()).toEqual(["gpt-4o", "llama-3"]);
    await two.close();
    for (let i = 0; i < 3; i += 1) {
      clock.advance(5 * 60_000);
      await step.refresh();
      expect(await ids()).toEqual(["gpt-4o", "llama-3"]);
    }
    expect(one.log).toHaveLength(4);
  });

  test("is said once when it begins and once when it ends, without its words", async () => {
    const upstream = await provider({ models: ["m"] });
    upstream.script([{ status: 500 }, { body: "sk-secret-in-a-page" }, {}]);
    const { lines, clock, step } = desk([at("a", upstream)]);
    for (let i = 0; i < 3; i += 1) {
      await step.refresh();
      clock.advance(30_000);
    }
    expect(lines.map(({ level, fields, message }) => [level, fields.credential, String(fields.err), message])).toEqual([
      ["warn", "a", "Error: the provider answers with status 500", expect.stringContaining("could not be read")],
      ["info", "a", "undefined", expect.stringContaining("can be read again")],
    ]);
  });

  test.each<[string, FakeReply, RegExp]>([
    ["a key that is not accepted", { status: 401 }, /status 401: the key is not accepted$/],
    ["a status that is no list", { status: 204 }, /status 204$/],
    ["no JSON", { body: "sk-secret-in-a-page" }, /is not a list of models$/],
    ["JSON that is no list", { body: { data: { id: "m" } } }, /is not a list of models$/],
    ["a list without end", { body: `{"data":[${'"xxxxxxxxxxxxxxx",'.repeat(300_000)}0]}` }, /too large$/],
    ["half an answer", { fault: { at: 5, how: "reset" } }, /unusable/],
    ["a redirect", { status: 302, headers: { location: "http://127.0.0.1:1/" } }, /redirect/],
  ])("%s leaves the list unknown", async (_what, reply, expected) => {
    const upstream = await provider();
    upstream.script(reply);
    const { ids, lines, catalogue } = desk([at("a", upstream)], { models: [{ name: "configured" }] });
    expect(await ids()).toEqual(["configured"]);
    expect(catalogue.lists("a")).toBeNull();
    expect(lines.map(({ fields }) => (fields.err as Error).message)).toEqual([expect.stringMatching(expected)]);
    expect(JSON.stringify(lines) + String(lines[0]?.fields.err)).not.toContain("secret");
  });
});

describe("providers are asked", () => {
  test("once in five minutes, and once for many at the same time", async () => {
    const upstream = await provider();
    const { ids, clock, step } = desk([at("a", upstream)]);
    await Promise.all(Array.from({ length: 20 }, () => ids()));
    clock.advance(5 * 60_000 - 1);
    await ids();
    expect(upstream.log).toHaveLength(1);
    clock.advance(1);
    await Promise.all(Array.from({ length: 20 }, () => ids()));
    await step.refresh();
    await ids();
    expect(upstream.log).toHaveLength(2);
  });

  test("all at the same time, and nobody waits for them longer than five seconds", async () => {
    const silent = await Promise.all(Array.from({ length: 3 }, () => provider()));
    for (const each of silent) each.script({ fault: { at: "start", how: "hang" } });
    const { ids, clock } = desk(
      silent.map((each, i) => at(`silent-${i}`, each)),
      { models: [{ name: "configured" }] },
    );
    const pending = ids();
    await Promise.all(silent.map((each) => each.received(1)));
    clock.advance(5_000);
    expect(await pending).toEqual(["configured"]);
    expect(clock.pending()).toBe(0);
  });

  test("behind the answer once there has been one, however old it is", async () => {
    const upstream = await provider({ models: ["old"] });
    const { ask, ids, clock, step } = desk([at("a", upstream)]);
    expect(await ids()).toEqual(["old"]);
    const { promise, resolve } = Promise.withResolvers<void>();
    upstream.script({ hold: promise, body: { data: [{ id: "new" }] } });
    clock.advance(60 * 60_000);
    const answer = ask();
    expect(isPromise(answer)).toBe(false);
    expect(bodyOf(answer as Answer)).toMatchObject({ data: [{ id: "old" }] });
    await upstream.received(2);
    resolve();
    await step.refresh();
    expect(await ids()).toEqual(["new"]);
  });

  test("before the first request when the server asks for it", async () => {
    const upstream = await provider({ models: ["m"] });
    const { ask, step } = desk([at("a", upstream)]);
    await Promise.all([step.refresh(), step.refresh()]);
    const answer = ask();
    expect(isPromise(answer)).toBe(false);
    expect(bodyOf(answer as Answer)).toMatchObject({ data: [{ id: "m" }] });
    expect(upstream.log).toHaveLength(1);
  });

  test("never when all models are named: the answer is there at once", async () => {
    const { ask } = desk([credential("a", { models: ["m"], origin: "http://127.0.0.1:9" })]);
    expect(bodyOf(ask() as Answer)).toMatchObject({ data: [{ id: "m", owned_by: "openai" }] });
  });
});
