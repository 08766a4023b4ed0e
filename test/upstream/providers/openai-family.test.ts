import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();

test.each([
  ["openrouter", "https://openrouter.ai/api"],
  ["groq", "https://api.groq.com/openai"],
  ["mistral", "https://api.mistral.ai"],
  ["deepseek", "https://api.deepseek.com"],
  ["xai", "https://api.x.ai"],
  ["together", "https://api.together.xyz"],
])("%s lives at its address, needs a key and is asked as OpenAI is", async (provider, url) => {
  expect(() => configured({ provider })).toThrow(`credentials[0].apiKey: is required for the provider ${provider}`);
  const { origin, basePath } = configured({ provider, apiKey: "k-1" });
  expect(origin + basePath).toBe(url);
  upstream.answers((_seen, res) => res.end("{}"));
  await asked(upstream, configured({ provider, apiKey: "k-1", baseUrl: `${upstream.url}${basePath}/v1` }), { body: { model: "m" } });
  expect(upstream.seen[0]).toMatchObject({ url: `${basePath}/v1/chat/completions`, body: { model: "m" } });
  expect(upstream.seen[0]?.headers.authorization).toBe("Bearer k-1");
});

test.each([
  ["ollama", "http://127.0.0.1:11434"],
  ["vllm", "http://127.0.0.1:8000"],
])("%s needs no key and lives on this machine unless told otherwise", (provider, url) => {
  expect(configured({ provider })).toMatchObject({ origin: url, apiKey: null });
  expect(configured({ provider, apiKey: "k", baseUrl: "http://10.0.0.1:1/v1" })).toMatchObject({ origin: "http://10.0.0.1:1", basePath: "" });
});

test.each(["", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])("azure: its address with %j behind it, as its pages tell it", async (rest) => {
  upstream.answers((_seen, res) => res.end("{}"));
  const at = { provider: "azure", apiKey: "k", baseUrl: `${upstream.url}${rest}` };
  await asked(upstream, configured(at), { model: "gpt-4o" });
  await asked(upstream, configured({ ...at, apiVersion: "2024-10-21" }), { model: "gpt-4o" });
  expect(upstream.seen.map(({ url }) => url)).toEqual([
    "/openai/v1/chat/completions",
    "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
  ]);
});

test("azure: the deployment stands in the path of a version, the key in a header of its own", async () => {
  upstream.answers((_seen, res) => res.end("{}"));
  expect(() => configured({ provider: "azure", apiKey: "k" })).toThrow(
    "credentials[0].baseUrl: is required: an azure provider has no address of its own",
  );
  expect(() => configured({ provider: "azure", apiKey: "k", baseUrl: upstream.url, apiVersion: "2024&x=1" })).toThrow(
    "credentials[0].apiVersion: expected a version",
  );
  const versioned = configured({ provider: "azure", apiKey: "k-azure", baseUrl: upstream.url, apiVersion: "2024-10-21" });
  await asked(upstream, versioned, { model: "my deployment/1" });
  await asked(upstream, versioned, { model: "e", operation: "embeddings" });
  const plain = configured({ provider: "azure", apiKey: "k-azure", baseUrl: upstream.url });
  await asked(upstream, plain, { model: "d" });
  await asked(upstream, plain, { paths: rowOf(plain).also?.responses ?? {} });
  expect(upstream.seen.map(({ url }) => url)).toEqual([
    "/openai/deployments/my%20deployment%2F1/chat/completions?api-version=2024-10-21",
    "/openai/deployments/e/embeddings?api-version=2024-10-21",
    "/openai/v1/chat/completions",
    "/openai/v1/responses",
  ]);
  expect(upstream.seen[0]?.headers["api-key"]).toBe("k-azure");
  expect(upstream.seen[0]?.headers.authorization).toBeUndefined();
  expect(rowOf(versioned).also).toEqual({});
});

test("what their errors mean", () => {
  const [openRouter, deepSeek, xai] = ["openrouter", "deepseek", "xai"].map((provider) => configured({ provider, apiKey: "k" }));
  if (!openRouter || !deepSeek || !xai) throw new Error("unreachable");
  const account = { fault: "credential", isAccountWide: true, waitMs: null };
  expect(judged(openRouter, 402, { error: { code: 402, message: "Insufficient credits" } })).toEqual(account);
  expect(judged(deepSeek, 402, { error: { message: "Insufficient Balance" } })).toEqual(account);
  expect(judged(openRouter, 403, { error: { code: 403, message: "Your input was flagged" } }).fault).toBe("request");
  expect(judged(openRouter, 429, "", { "x-ratelimit-reset": "1795000061" }, 1_795_000_000_000).waitMs).toBe(61_000);
  expect(judged(openRouter, 429, "", { "x-ratelimit-reset": "1795000060000" }, 1_795_000_000_000).waitMs).toBe(60_000);
  expect(judged(openRouter, 500, "", { "x-ratelimit-reset": "1795000060000" }, 1_795_000_000_000).waitMs).toBeNull();
  expect(judged(xai, 403, { error: "bad-credentials: the token is wrong, model not found" }).fault).toBe("credential");
  expect(judged(xai, 403, { error: "Free usage exhausted for today" })).toEqual({ fault: "capacity", isAccountWide: true, waitMs: null });
  expect(judged(xai, 429, "", { "retry-after": "5" }).waitMs).toBe(5_000);
});
