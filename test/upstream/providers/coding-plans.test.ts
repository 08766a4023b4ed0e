import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();
const of = (provider: string, more: Readonly<Record<string, unknown>> = {}) =>
  configured({ provider, apiKey: "k-1", baseUrl: upstream.url, ...more });

async function sent(provider: string, body: Readonly<Record<string, unknown>>, more: Readonly<Record<string, unknown>> = {}) {
  upstream.answers((_seen, res) => res.end("{}"));
  await asked(upstream, of(provider, more), { body });
  return upstream.seen[0];
}

test("qwen: a key of DashScope is asked as OpenAI is", async () => {
  expect(configured({ provider: "qwen", apiKey: "k" })).toMatchObject({
    origin: "https://dashscope-intl.aliyuncs.com",
    basePath: "/compatible-mode",
  });
  const seen = await sent("qwen", { messages: [{ role: "user", content: "hi" }] });
  expect(seen).toMatchObject({ url: "/v1/chat/completions", body: { messages: [{ role: "user", content: "hi" }] } });
  expect(seen?.headers["x-dashscope-authtype"]).toBeUndefined();
});

test("qwen: a login goes to the host that it named, with the portal's headers and rules", async () => {
  const login = { resourceUrl: "portal.qwen.ai" };
  expect(configured({ provider: "qwen", apiKey: "k", ...login }).origin).toBe("https://portal.qwen.ai");
  const user = { role: "user", content: "hi" };
  const seen = await sent("qwen", { messages: [user], stream: true }, login);
  expect(seen?.headers).toMatchObject({ "x-dashscope-authtype": "qwen-oauth", "x-dashscope-cachecontrol": "enable", authorization: "Bearer k-1" });
  expect(seen?.body).toEqual({
    messages: [{ role: "system", content: [{ type: "text", text: "" }] }, user],
    stream: true,
    stream_options: { include_usage: true },
  });
  const messages = [{ role: "system", content: "s" }, user];
  expect((await sent("qwen", { messages }, login))?.body).toEqual({ messages });
  for (const resourceUrl of ["https://portal.qwen.ai", "portal.qwen.ai/x", "portal.qwen.ai:1", "a b", "localhost"]) {
    expect(() => of("qwen", { resourceUrl })).toThrow("credentials[0].resourceUrl: expected a host such as portal.qwen.ai");
  }
  for (const [resourceUrl, why] of [
    ["169.254.169.254", "is an instance metadata service"],
    ["metadata.google.internal", "is an instance metadata service"],
    ["0x7f.1", "unusual form"],
  ] as const) {
    expect(() => of("qwen", { resourceUrl })).toThrow(new RegExp(`^credentials\\[0\\]\\.resourceUrl: .*${why}`));
  }
});

test("qwen: a day's allowance that is spent is a lack of room, an account without money is not", () => {
  const spent = { error: { code: "insufficient_quota", message: "Free allocated quota exceeded." } };
  for (const status of [403, 429]) {
    expect(judged(of("qwen", { resourceUrl: "portal.qwen.ai" }), status, spent)).toEqual({ fault: "capacity", isAccountWide: true, waitMs: null });
  }
  expect(judged(of("qwen"), 429, spent)).toEqual({ fault: "credential", isAccountWide: true, waitMs: null });
});

test("iflow: an empty list of tools is none", async () => {
  expect(configured({ provider: "iflow", apiKey: "k" }).origin).toBe("https://apis.iflow.cn");
  expect((await sent("iflow", { tools: [], model: "m" }))?.body).toEqual({ model: "m" });
  expect((await sent("iflow", { tools: [1] }))?.body).toEqual({ tools: [1] });
  expect(upstream.seen[0]).toMatchObject({ url: "/v1/chat/completions" });
  expect(upstream.seen[0]?.headers.authorization).toBe("Bearer k-1");
});

test("kimi: chats and messages on one address, by the caller's dialect", async () => {
  const credential = of("kimi", { baseUrl: `${upstream.url}/coding/v1` });
  expect(configured({ provider: "kimi", apiKey: "k" })).toMatchObject({ origin: "https://api.kimi.com", basePath: "/coding" });
  upstream.answers((_seen, res) => res.end("{}"));
  await asked(upstream, credential);
  await asked(upstream, credential, { paths: rowOf(credential).also?.anthropic ?? {} });
  expect(upstream.seen.map(({ url }) => url)).toEqual(["/coding/v1/chat/completions", "/coding/v1/messages"]);
  expect(upstream.seen[1]?.headers).toMatchObject({ authorization: "Bearer k-1", "anthropic-version": "2023-06-01" });
});
