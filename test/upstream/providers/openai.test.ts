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

test("quotas of OpenAI's headers", () => {
  const { quotas } = rowOf(configured({ provider: "openai", apiKey: "sk-k" }));
  const headers = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "25",
    "x-ratelimit-reset-requests": "6m0s",
    "x-ratelimit-limit-tokens": "0",
    "x-ratelimit-remaining-tokens": "0",
  };
  expect(quotas?.(headers, 1_000)).toEqual([{ group: "requests", remainingRatio: 0.25, resetsAt: 361_000 }]);
});
