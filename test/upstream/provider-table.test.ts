import { expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import type { ProviderDefinition, ProviderRow } from "../../src/core/provider.ts";
import type { Secret } from "../../src/core/secret.ts";
import { requestHeaders } from "../../src/upstream/headers.ts";
import { providerTable } from "../../src/upstream/provider-table.ts";
import { PROVIDER_IDS, rowOf } from "../../src/upstream/providers.ts";
import { credential } from "../pool/pool-kit.ts";

function kit() {
  const table = providerTable();
  const failures: (readonly [string, string])[] = [];
  const add = (definition: unknown): ProviderRow => {
    table.add(definition as ProviderDefinition, (member, error) => void failures.push([member, (error as Error).message]));
    return table.find((definition as ProviderDefinition).id) as ProviderRow;
  };
  return { table, add, failures };
}

test("a row extends another and says only what differs; a third may extend it", () => {
  const { table, add } = kit();
  const mine = add({ id: "mine", extends: "openai-compatible", baseUrl: "https://mine.example/api", paths: { chat: "/chat" } });
  expect(mine).toMatchObject({ id: "mine", dialect: "openai", capField: "max_tokens", baseUrl: "https://mine.example/api" });
  expect(mine.paths).toMatchObject({ chat: "/chat", models: "/v1/models" });
  expect(add({ id: "mine-too", extends: "mine", capField: "max_completion_tokens" })).toMatchObject({
    paths: mine.paths,
    capField: "max_completion_tokens",
  });
  expect(table.ids).toEqual([...PROVIDER_IDS, "mine", "mine-too"]);
  expect(providerTable().find("mine")).toBeUndefined();
});

test("a credential is proved as its row says", () => {
  const { add } = kit();
  const row = add({
    id: "mine",
    extends: "openai-compatible",
    authorize: (headers: Record<string, string>, { apiKey }: { apiKey: Secret }) => void (headers["x-mine"] = apiKey.reveal()),
  });
  const mine = credential("c", { provider: "mine", row });
  expect(rowOf(mine)).toBe(row);
  const headers = requestHeaders({}, row, mine, null);
  expect([headers.includes("x-mine"), headers.includes("authorization")]).toEqual([true, false]);
});

test.each<[unknown, string]>([
  [{ id: "Mine", extends: "openai" }, "provider Mine: id: must be 1 to 64 characters of a-z 0-9 . _ - and start with a letter or digit"],
  [{ extends: "openai" }, "provider: id: must be"],
  [{ id: "openai", extends: "openai-compatible" }, "provider openai: id: there is a provider of this id already"],
  [{ id: "x", extends: "opnai" }, `provider x: extends: expected one of ${PROVIDER_IDS.join(", ")}; did you mean openai?`],
  [{ id: "x" }, `provider x: extends: expected one of ${PROVIDER_IDS.join(", ")}`],
  [{ id: "x", extends: "openai", authorize: "bearer" }, "provider x: authorize: expected a function"],
  [{ id: "x", extends: "openai", autorize: () => undefined }, "provider x: autorize: is not a member of a provider; did you mean authorize?"],
  [{ id: "x", extends: "openai", paths: { chta: "/a" } }, "provider x: paths.chta: is not an operation; did you mean chat?"],
  [
    { id: "x", extends: "openai", paths: { chat: "https://evil.example/" } },
    "provider x: paths.chat: expected a plain path such as /v1/chat/completions",
  ],
  [{ id: "x", extends: "openai", paths: { chat: "/v1/../admin" } }, "provider x: paths.chat: expected a plain path"],
  [{ id: "x", extends: "openai", paths: { chat: "/v1/chat?a=b" } }, "provider x: paths.chat: expected a plain path"],
  [{ id: "x", extends: "openai", baseUrl: "http://169.254.169.254" }, "provider x: baseUrl: 169.254.169.254 is an instance metadata service"],
  [{ id: "x", extends: "openai", baseUrl: "ftp://x" }, "provider x: baseUrl: must be an absolute http:// or https:// URL"],
  [{ id: "x", extends: "openai", capField: "max" }, "provider x: capField: expected one of max_tokens, max_completion_tokens"],
  [{ id: "x", extends: "openai", dialect: "kiro" as never }, "provider x: dialect: expected one of openai, responses, anthropic, gemini"],
  [{ id: "x", extends: "openai", dialect: "gemini" }, "provider x: paths.chat: is needed, because the paths of openai are those of another dialect"],
  [{ id: "x", extends: "openai", dialect: "anthropic", paths: { chat: "/v1/{modal}" } }, "provider x: paths.chat: expected a plain path"],
  [{ id: "x", extends: "openai", forwardedHeaders: ["Accept"] }, "provider x: forwardedHeaders: expected a list of header names in lower case"],
])("%j is refused", (definition, message) => {
  const { table, add } = kit();
  expect(() => add(definition)).toThrow(ConfigError);
  expect(() => add(definition)).toThrow(message);
  expect(table.ids).toEqual(PROVIDER_IDS);
});

test("what a row's function throws, or answers wrongly, is told, and the extended row is asked", () => {
  const { add, failures } = kit();
  const broken = add({
    id: "x",
    extends: "openai",
    classify: () => {
      throw new Error("broken");
    },
    retryAfterMs: () => Number.NaN,
  });
  expect(broken.classify(401, {}, "", 0)).toEqual({ fault: "credential", isAccountWide: false, waitMs: null });
  expect(broken.retryAfterMs({ "retry-after": "2" }, 0, true)).toBe(2_000);
  const odd = add({ id: "y", extends: "openai", classify: () => ({ fault: "yours" }) });
  expect(odd.classify(429, {}, "", 0).fault).toBe("capacity");
  expect(failures.map(([member]) => member)).toEqual(["classify", "retryAfterMs", "classify"]);
});

test("a proof that takes its time is no proof, and its failure brings nothing down", () => {
  const { add } = kit();
  const row = add({ id: "x", extends: "openai", authorize: () => Promise.reject(new Error("later")) });
  expect(() => requestHeaders({}, row, credential("c", { row }), null)).toThrow(/authorize of provider x must be synchronous/);
});

test("a plugin's row may adapt, unwrap, add headers and read quotas; what it does wrong is told and not done", () => {
  const { add, failures } = kit();
  const about = { credential: credential("c"), model: "m", operation: "chat", stream: false, requestId: "r" } as const;
  const mine = add({
    id: "mine",
    extends: "iflow",
    paths: { chat: "/v2/{model}/chat" },
    family: "anthropic",
    models: ["a"],
    adapt: (body: object) => ({ ...body, mine: true }),
    unwrap: ({ data }: { data: unknown }) => data,
    requestHeaders: () => ({ "x-mine": "1" }),
    quotas: (_headers: object, _nowMs: number, model: string) => [
      { group: model, remainingRatio: 0.5, resetsAt: null, windowMs: 5, unit: "tokens", models: ["a*"] },
    ],
    faultQuotas: (status: number) => [{ group: String(status), remainingRatio: 0, resetsAt: 7 }],
  });
  expect(mine).toMatchObject({ paths: { chat: "/v2/{model}/chat" }, family: "anthropic", models: ["a"] });
  expect(mine.adapt?.({ a: 1 }, about)).toEqual({ a: 1, mine: true });
  expect(mine.unwrap?.({ data: { b: 2 } })).toEqual({ b: 2 });
  expect(mine.requestHeaders?.({}, about)).toEqual({ "x-mine": "1" });
  expect(mine.quotas?.({}, 0, "m")).toEqual([{ group: "m", remainingRatio: 0.5, resetsAt: null, windowMs: 5, unit: "tokens", models: ["a*"] }]);
  expect(mine.faultQuotas?.(429, {}, "", 0, "m")).toEqual([{ group: "429", remainingRatio: 0, resetsAt: 7 }]);
  expect(failures).toEqual([]);

  const wrong = add({
    id: "wrong",
    extends: "iflow",
    adapt: () => Promise.resolve({}),
    unwrap: () => null,
    requestHeaders: () => ({ "x-mine": "a\r\nb" }),
    quotas: () => [{ group: "day", remainingRatio: 2, resetsAt: null }],
    faultQuotas: () => [{ group: "day", remainingRatio: 0, resetsAt: null, unit: "bananas" as "usd" }],
  });
  // The extended row drops an empty list of tools.
  expect(wrong.adapt?.({ tools: [] }, about)).toEqual({});
  expect(wrong.unwrap?.({ data: 1 })).toEqual({ data: 1 });
  expect(wrong.requestHeaders?.({}, about)).toEqual({});
  expect(wrong.quotas?.({ "x-ratelimit-limit-tokens": "4", "x-ratelimit-remaining-tokens": "1" }, 0, "m")).toMatchObject([{ group: "tokens/m" }]);
  const spent = { error: { type: "tokens" } };
  expect(wrong.faultQuotas?.(429, { "retry-after": "2" }, JSON.stringify(spent), 0, "m")).toMatchObject([{ group: "tokens/m", resetsAt: 2_000 }]);
  expect(failures.map(([member]) => member)).toEqual(["adapt", "unwrap", "requestHeaders", "quotas", "faultQuotas"]);
});

test.each<[unknown, string]>([
  [{ id: "x", extends: "openai", adapt: 5 }, "provider x: adapt: expected a function"],
  [{ id: "x", extends: "openai", models: [5] }, "provider x: models: expected a list of names"],
  [{ id: "x", extends: "openai", streamsOnly: false }, "provider x: streamsOnly: expected true"],
  [{ id: "x", extends: "openai", family: "qwen" }, "provider x: family: expected one of openai, anthropic, gemini, or a function of the model"],
  [{ id: "x", extends: "openai", paths: { chat: "/v1/{modle}/chat" } }, "provider x: paths.chat: expected a plain path"],
])("%j is refused, too", (definition, message) => {
  expect(() => kit().add(definition)).toThrow(message);
});
