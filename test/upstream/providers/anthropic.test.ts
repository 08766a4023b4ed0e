import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();
const NOW = Date.parse("2026-11-20T10:00:00Z");
const key = configured({ provider: "anthropic", apiKey: "sk-ant-api03-k" });

test("lives at Anthropic's address unless the credential says another, and needs a key", () => {
  expect([key.origin, key.basePath]).toEqual(["https://api.anthropic.com", ""]);
  expect(() => configured({ provider: "anthropic" })).toThrow("credentials[0].apiKey: is required for the provider anthropic");
  expect(() => configured({ provider: "anthropic", apiKey: "k", project: "p" })).toThrow(
    "credentials[0].project: is nothing that the provider anthropic takes",
  );
});

test("messages and token counts go to their paths, with the key, the version and the client's betas", async () => {
  upstream.answers((_seen, res) => res.end("{}"));
  const credential = configured({ provider: "anthropic", apiKey: "sk-ant-api03-k", baseUrl: `${upstream.url}/v1` });
  const client = { "anthropic-beta": "interleaved-thinking-2025-05-14", "anthropic-version": "2099-01-01", "user-agent": "somebody/1" };
  await asked(upstream, credential, { client, body: { model: "claude-x", max_tokens: 1 } });
  await asked(upstream, credential, { operation: "count_tokens" });
  expect(upstream.seen.map(({ url }) => url)).toEqual(["/v1/messages", "/v1/messages/count_tokens"]);
  expect(upstream.seen[0]?.headers).toMatchObject({
    "x-api-key": "sk-ant-api03-k",
    authorization: "Bearer sk-ant-api03-k",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "interleaved-thinking-2025-05-14",
    "user-agent": expect.stringMatching(/^quotaguard\//) as string,
  });
  expect(upstream.seen[0]?.body).toEqual({ model: "claude-x", max_tokens: 1 });
});

test("at Anthropic itself a key goes in one place only", () => {
  const headers: Record<string, string> = {};
  rowOf(key).authorize(headers, key);
  expect(headers).toEqual({ "anthropic-version": "2023-06-01", "x-api-key": "sk-ant-api03-k" });
});

test("a login's token is a bearer, and its beta stands among the client's", async () => {
  upstream.answers((_seen, res) => res.end("{}"));
  const login = configured({ provider: "anthropic", apiKey: "sk-ant-oat01-t", baseUrl: upstream.url });
  await asked(upstream, login, { client: { "anthropic-beta": "context-1m-2025-08-07" } });
  await asked(upstream, login);
  expect(upstream.seen.map(({ headers }) => [headers.authorization, headers["x-api-key"], headers["anthropic-beta"]])).toEqual([
    ["Bearer sk-ant-oat01-t", undefined, "oauth-2025-04-20,context-1m-2025-08-07"],
    ["Bearer sk-ant-oat01-t", undefined, "oauth-2025-04-20"],
  ]);
});

const error = (type: string, message = "m") => ({ type: "error", error: { type, message } });

test.each([
  [400, error("invalid_request_error"), "request", false],
  [400, error("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), "credential", true],
  [401, error("authentication_error"), "credential", false],
  [402, error("billing_error"), "credential", true],
  [403, error("permission_error"), "credential", false],
  [404, error("not_found_error"), "request", false],
  [413, error("request_too_large"), "request", false],
  [429, error("rate_limit_error"), "capacity", false],
  [429, error("rate_limit_error", "Fast mode needs usage credits."), "request", false],
  [500, error("api_error"), "capacity", false],
  [529, error("overloaded_error"), "capacity", false],
] as const)("%i %j is a fault of the %s", (status, body, fault, isAccountWide) => {
  expect(judged(key, status, body)).toEqual({ fault, isAccountWide, waitMs: null });
});

const at = (ms: number): string => String((NOW + ms) / 1_000);

test.each<[string, Record<string, string>, boolean, number | null]>([
  ["a rejected window of the account", { "5h-status": "rejected", "5h-reset": at(60_000) }, true, 60_000],
  ["the latest of two", { "5h-status": "rejected", "5h-reset": at(60_000), "7d-status": "rejected", "7d-reset": at(3_600_000) }, true, 3_600_000],
  ["a window that is not rejected tells nothing", { "5h-status": "allowed_warning", "5h-reset": at(60_000), reset: at(5_000) }, false, 5_000],
  ["a window of some models", { "7d_oi-status": "rejected", "7d_oi-reset": "2026-11-20T10:00:30Z" }, false, 30_000],
  ["a week", { "7d-status": "rejected", "7d-reset": at(7 * 86_400_000) }, true, 7 * 86_400_000],
  ["a family's week", { "7d_opus-status": "rejected", "7d_opus-reset": at(90_000) }, false, 90_000],
])("429: %s", (_what, unified, isAccountWide, waitMs) => {
  const headers = Object.fromEntries(Object.entries(unified).map(([name, value]) => [`anthropic-ratelimit-unified-${name}`, value]));
  expect(judged(key, 429, error("rate_limit_error"), headers, NOW)).toEqual({ fault: "capacity", isAccountWide, waitMs });
});

test("429: retry-after, else the exhausted limit", () => {
  const limits = {
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-11-20T10:00:20Z",
    "anthropic-ratelimit-tokens-remaining": "5",
    "anthropic-ratelimit-tokens-reset": "2026-11-20T10:00:50Z",
  };
  expect(judged(key, 429, "", limits, NOW).waitMs).toBe(20_000);
  expect(judged(key, 429, "", { ...limits, "retry-after": "3" }, NOW).waitMs).toBe(3_000);
  expect(judged(key, 529, "", limits, NOW).waitMs).toBeNull();
});

const read = (headers: Record<string, string>, model = "claude-sonnet-4-5") => rowOf(key).quotas?.(headers, NOW, model);
const unifiedHeaders = (of: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(of).map(([name, value]) => [`anthropic-ratelimit-unified-${name}`, value]));

test("quotas: a window's utilization is a fraction that is used; a rejected one has nothing left, whatever it says", () => {
  const headers = unifiedHeaders({
    status: "allowed",
    reset: at(60_000),
    "5h-status": "allowed_warning",
    "5h-utilization": "0.25",
    "5h-reset": at(60_000),
    "7d-status": "rejected",
    "7d-utilization": "0.98",
    "7d-reset": "2026-11-24T10:00:00Z",
    "7d_opus-utilization": "1.2",
    "overage-status": "allowed",
  });
  expect(read(headers)).toEqual([
    { group: "5h", remainingRatio: 0.75, resetsAt: NOW + 60_000, windowMs: 5 * 3_600_000 },
    { group: "7d", remainingRatio: 0, resetsAt: NOW + 4 * 86_400_000, windowMs: 7 * 86_400_000 },
    { group: "7d_opus", models: ["*opus*"], remainingRatio: 0, resetsAt: null, windowMs: 7 * 86_400_000 },
  ]);
  expect(read({})).toEqual([]);
  expect(read(unifiedHeaders({ "5h-status": "allowed", "7d-utilization": "much" }))).toEqual([]);
});

test("quotas: a window of models that nobody knows is that of the model that was asked; that it has run out, only a refusal says", () => {
  const week = { resetsAt: NOW + 60_000, windowMs: 7 * 86_400_000 };
  const mine = { group: "7d_oi/claude-sonnet-4-5", models: ["claude-sonnet-4-5"] };
  expect(read(unifiedHeaders({ "7d_oi-status": "allowed", "7d_oi-utilization": "0.4", "7d_oi-reset": at(60_000) }))).toEqual([
    { ...mine, ...week, remainingRatio: 0.6 },
  ]);
  const rejected = unifiedHeaders({ "7d_oi-status": "rejected", "7d_oi-utilization": "1", "7d_oi-reset": at(60_000) });
  expect(read(rejected)).toEqual([]);
  expect(rowOf(key).faultQuotas?.(429, rejected, "", NOW, "claude-sonnet-4-5")).toEqual([{ ...mine, ...week, remainingRatio: 0 }]);
  expect(rowOf(key).faultQuotas?.(529, rejected, "", NOW, "claude-sonnet-4-5")).toEqual([]);
});

test("quotas: limits of a minute are each model's own, with their size", () => {
  const headers = {
    "anthropic-ratelimit-requests-limit": "x",
    "anthropic-ratelimit-tokens-limit": "1000",
    "anthropic-ratelimit-tokens-remaining": "400",
    "anthropic-ratelimit-tokens-reset": "2026-11-20T10:00:30Z",
    "anthropic-ratelimit-input-tokens-limit": "50",
    "anthropic-ratelimit-input-tokens-remaining": "60",
    "anthropic-ratelimit-output-tokens-limit": "0",
    "anthropic-ratelimit-output-tokens-remaining": "0",
  };
  const own = { models: ["claude-opus-4-5"], windowMs: 60_000, refills: true };
  expect(read(headers, "claude-opus-4-5")).toEqual([
    { ...own, group: "tokens/claude-opus-4-5", remainingRatio: 0.4, resetsAt: NOW + 30_000, limit: 1_000, unit: "tokens" },
    { ...own, group: "input-tokens/claude-opus-4-5", remainingRatio: 1, resetsAt: null, limit: 50, unit: "input_tokens" },
  ]);
});
