import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();
const NOW = 1_795_000_000_000;
const token = (claims: unknown): string => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;
const CLAIMS = { "https://api.openai.com/auth": { chatgpt_account_id: "acct-in-token" } };
const credential = configured({ provider: "codex", apiKey: token(CLAIMS) });
const mine = () => configured({ provider: "codex", apiKey: token(CLAIMS), accountId: "acct-1", baseUrl: upstream.url });

async function sent(body: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>> | null | undefined> {
  upstream.answers((_seen, res) => res.end("{}"));
  await asked(upstream, mine(), { body });
  return upstream.seen[0]?.body;
}

test("lives at ChatGPT's backend, answers in streams only, is told which account is billed and who we are", async () => {
  expect(credential.origin + credential.basePath).toBe("https://chatgpt.com/backend-api/codex");
  expect(rowOf(credential)).toMatchObject({ dialect: "responses", streamsOnly: true, family: "openai" });
  await sent({ input: [], prompt_cache_key: "conversation-1" });
  expect(upstream.seen[0]).toMatchObject({ url: "/responses" });
  expect(upstream.seen[0]?.headers).toMatchObject({
    authorization: `Bearer ${token(CLAIMS)}`,
    "chatgpt-account-id": "acct-1",
    "session-id": "conversation-1",
    accept: "text/event-stream",
    "user-agent": expect.stringMatching(/^quotaguard\//) as string,
  });
  expect(upstream.seen[0]?.headers.originator).toBeUndefined();
});

test.each([
  [CLAIMS, "acct-in-token"],
  [{}, undefined],
  [{ "https://api.openai.com/auth": { chatgpt_account_id: "a\nb" } }, undefined],
])("the account that a token of %j names", (claims, account) => {
  const headers: Record<string, string> = {};
  const made = configured({ provider: "codex", apiKey: token(claims) });
  rowOf(made).authorize(headers, made);
  expect(headers["chatgpt-account-id"]).toBe(account);
});

test("codex-unsupported-fields-stripped: what the backend refuses goes, what it demands comes", async () => {
  const refused = {
    max_output_tokens: 5,
    temperature: 1,
    top_p: 1,
    truncation: "auto",
    user: "u",
    safety_identifier: "s",
    prompt_cache_retention: "24h",
    stream_options: {},
  };
  const input = [
    { type: "message", role: "system", content: [{ type: "input_text", text: "s", prompt_cache_breakpoint: {} }], prompt_cache_breakpoint: {} },
    { type: "function_call", call_id: "c".repeat(70), name: "f", arguments: "{}" },
    { type: "function_call_output", call_id: "c".repeat(70), output: "o" },
    { type: "function_call_output", call_id: "short", output: "o" },
  ];
  const body = await sent({ model: "gpt-5", stream: false, store: true, service_tier: "flex", parallel_tool_calls: true, ...refused, input });
  const id = (body as { readonly input: readonly { readonly call_id: string }[] }).input[1]?.call_id ?? "";
  expect(id).toMatch(/^call_[0-9a-f]{59}$/);
  expect(body).toEqual({
    model: "gpt-5",
    instructions: "",
    store: false,
    stream: true,
    include: ["reasoning.encrypted_content"],
    input: [
      { type: "message", role: "developer", content: [{ type: "input_text", text: "s" }] },
      { ...input[1], call_id: id },
      { ...input[2], call_id: id },
      input[3],
    ],
  });
});

test("body rules: what it takes stays", async () => {
  const tools = [{ type: "web_search_preview_2025_03_11", search_context_size: "low" }, { type: "function", name: "f" }, "odd"];
  const body = await sent({ input: "hi", instructions: "be kind", tools, parallel_tool_calls: false, service_tier: "priority", include: ["a"] });
  expect(body).toMatchObject({
    instructions: "be kind",
    input: [{ type: "message", role: "user", content: [{ type: "input_text", text: "hi" }] }],
    tools: [{ type: "web_search", search_context_size: "low" }, { type: "function", name: "f" }, "odd"],
    parallel_tool_calls: false,
    service_tier: "priority",
    include: ["a", "reasoning.encrypted_content"],
  });
});

test.each<[number, unknown, string, boolean, number | null]>([
  [429, { error: { type: "usage_limit_reached", resets_at: NOW / 1_000 + 90 } }, "capacity", true, 90_000],
  [403, { error: { type: "usage_limit_reached", resets_in_seconds: 60 } }, "capacity", true, 60_000],
  [429, { error: { type: "usage_limit_reached" } }, "capacity", true, null],
  [429, { error: { type: "usage_limit_reached", resets_in_seconds: 604_800 } }, "capacity", true, 604_800_000],
  [400, { error: { message: "The selected model is at capacity" } }, "capacity", false, null],
  [400, { error: { code: "context_length_exceeded" } }, "request", false, null],
  [403, { error: { code: "cyber_policy" } }, "request", false, null],
  [401, { error: { code: "token_invalidated" } }, "credential", false, null],
  [413, "", "request", false, null],
  [503, { error: { type: "service_unavailable_error" } }, "capacity", false, null],
])("%i %j is a fault of the %s", (status, body, fault, isAccountWide, waitMs) => {
  expect(judged(credential, status, body, {}, NOW)).toEqual({ fault, isAccountWide, waitMs });
});

test("quotas: a window's length names it, not its place", () => {
  const quotas = (headers: Record<string, string>) => rowOf(credential).quotas?.(headers, NOW, "gpt-5");
  const weekFirst = {
    "x-codex-primary-used-percent": "40",
    "x-codex-primary-window-minutes": "10080",
    "x-codex-primary-reset-at": String(NOW / 1_000 + 5),
  };
  expect(quotas({ ...weekFirst, "x-codex-secondary-used-percent": "130", "x-codex-secondary-window-minutes": "300" })).toEqual([
    { group: "weekly", remainingRatio: 0.6, resetsAt: NOW + 5_000, windowMs: 7 * 86_400_000 },
    { group: "session", remainingRatio: 0, resetsAt: null, windowMs: 5 * 3_600_000 },
  ]);
  expect(quotas({ "x-codex-primary-used-percent": "0", "x-codex-primary-reset-after-seconds": "10" })).toEqual([
    { group: "session", remainingRatio: 1, resetsAt: NOW + 10_000 },
  ]);
  expect(quotas({ "x-codex-primary-used-percent": "many" })).toEqual([]);
});

test("quotas: hundredths may have a fraction; a moment within the next hour is one", () => {
  const read = (used: string, resetAt: string) =>
    rowOf(credential).quotas?.({ "x-codex-primary-used-percent": used, "x-codex-primary-reset-at": resetAt }, NOW, "gpt-5")?.[0];
  expect(read("37.4", String(NOW / 1_000 + 600))).toEqual({ group: "session", remainingRatio: 0.626, resetsAt: NOW + 600_000 });
  expect(read("0.5", "2026-11-18T00:00:00Z")?.remainingRatio).toBe(0.995);
  expect(read("80.5", "1795000060000")).toMatchObject({ remainingRatio: 0.195, resetsAt: NOW + 60_000 });
});
