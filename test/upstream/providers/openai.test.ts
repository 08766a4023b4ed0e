import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, scripted } from "./kit.ts";

const upstream = scripted();

test("chats and responses of OpenAI go to their paths with the key", async () => {
  upstream.answers((_seen, res) => res.end("{}"));
  const credential = configured({ provider: "openai", apiKey: "sk-k", baseUrl: `${upstream.url}/v1/` });
  await asked(upstream, credential);
  await asked(upstream, credential, { paths: rowOf(credential).also?.responses ?? {} });
  await asked(upstream, credential, { operation: "embeddings" });
  expect(upstream.seen.map(({ url, headers }) => [url, headers.authorization])).toEqual([
    ["/v1/chat/completions", "Bearer sk-k"],
    ["/v1/responses", "Bearer sk-k"],
    ["/v1/embeddings", "Bearer sk-k"],
  ]);
});

const read = (headers: Record<string, string>, model = "gpt-4o") =>
  rowOf(configured({ provider: "openai", apiKey: "sk-k" })).quotas?.(headers, 1_000, model);

test("quotas of OpenAI's headers: of the model that was asked, with their size and their window", () => {
  const headers = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "25",
    "x-ratelimit-reset-requests": "6m0s",
    "x-ratelimit-limit-tokens": "0",
    "x-ratelimit-remaining-tokens": "0",
  };
  const requests = { remainingRatio: 0.25, resetsAt: 361_000, windowMs: 3_600_000, refills: true, limit: 100, unit: "requests" };
  expect(read(headers)).toEqual([{ group: "requests/gpt-4o", models: ["gpt-4o"], ...requests }]);
  expect(read(headers, "")).toEqual([{ group: "requests", ...requests }]);
});

test.each<readonly [string | undefined, number | null, number]>([
  ["120ms", 1_120, 60_000],
  ["1m0s", 61_000, 60_000],
  ["60", 61_000, 60_000],
  ["2h", 7_201_000, 86_400_000],
  ["48h", 172_801_000, 172_800_000],
  ["soon", null, 60_000],
  [undefined, null, 60_000],
])("a limit that is whole again in %s", (reset, resetsAt, windowMs) => {
  const headers = { "x-ratelimit-limit-tokens": "2000000", "x-ratelimit-remaining-tokens": "1999999" };
  const found = read(reset === undefined ? headers : { ...headers, "x-ratelimit-reset-tokens": reset });
  expect(found).toMatchObject([
    { group: "tokens/gpt-4o", remainingRatio: 1_999_999 / 2_000_000, limit: 2_000_000, unit: "tokens", resetsAt, windowMs },
  ]);
});

test("a refusal names what has run out; without a time, or a name, it says nothing of quotas", () => {
  const { faultQuotas } = rowOf(configured({ provider: "openai", apiKey: "sk-k" }));
  const refusal = (type: string) => JSON.stringify({ error: { message: "Rate limit reached", type, code: "rate_limit_exceeded" } });
  const spent = (status: number, body: string, headers: Record<string, string> = { "retry-after": "20" }) =>
    faultQuotas?.(status, headers, body, 1_000, "gpt-4o");
  expect(spent(429, refusal("tokens"))).toEqual([
    { group: "tokens/gpt-4o", models: ["gpt-4o"], remainingRatio: 0, resetsAt: 21_000, unit: "tokens" },
  ]);
  expect(spent(429, refusal("requests"), { "x-ratelimit-reset-requests": "6m0s" })).toMatchObject([{ group: "requests/gpt-4o", resetsAt: 361_000 }]);
  expect([spent(429, refusal("tokens"), {}), spent(429, refusal("insufficient_quota")), spent(429, "<html>"), spent(400, refusal("tokens"))]).toEqual(
    [[], [], [], []],
  );
});
