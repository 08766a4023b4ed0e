import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, scripted } from "./kit.ts";

const upstream = scripted();
const NOW = 1_795_000_000_000;
const login = configured({ provider: "copilot", apiKey: "ghu_t" });
const relayed = () => configured({ provider: "copilot", apiKey: "ghu_t", baseUrl: upstream.url });

test("a GitHub token is exchanged at GitHub, and only hosts of Copilot's get what comes of it", () => {
  const exchange = rowOf(login).tokens;
  expect(exchange?.request(login, NOW)).toEqual({
    url: "https://api.github.com/copilot_internal/v2/token",
    method: "GET",
    headers: { authorization: "Bearer ghu_t" },
    body: null,
  });
  const read = (answer: Readonly<Record<string, unknown>>) => exchange?.read(answer, login, NOW);
  expect(read({ token: "tid=1", expires_at: NOW / 1_000 + 1_800, endpoints: { api: "https://api.business.githubcopilot.com/" } })).toMatchObject({
    expiresAt: NOW + 1_800_000,
    origin: "https://api.business.githubcopilot.com",
  });
  expect(read({ token: "tid=1" })).toMatchObject({ expiresAt: NOW + 25 * 60_000, origin: "https://api.githubcopilot.com" });
  for (const api of [
    "https://evil.example",
    "http://api.githubcopilot.com",
    "https://api.githubcopilot.com@evil.example",
    "https://api.githubcopilot.com:81",
  ]) {
    expect(read({ token: "tid=1", endpoints: { api } })).toBeNull();
  }
  expect(read({})).toBeNull();
});

function answering(): void {
  upstream.answers(({ url }, res) => {
    const api = { api: "https://api.githubcopilot.com" };
    res.end(
      url === "/copilot_internal/v2/token"
        ? JSON.stringify({ token: "tid=1", expires_at: upstream.clock.now() / 1_000 + 1_800, endpoints: api })
        : "{}",
    );
  });
}

test("an operator's own address stands for all of GitHub's", async () => {
  answering();
  const credential = relayed();
  const body = { messages: [{ role: "user", content: "hi" }] };
  await asked(upstream, credential, { body });
  await asked(upstream, credential, { body, paths: rowOf(credential).also?.responses ?? {} });
  expect(upstream.seen.map(({ method, url, headers }) => [method, url, headers.authorization])).toEqual([
    ["GET", "/copilot_internal/v2/token", "Bearer ghu_t"],
    ["POST", "/chat/completions", "Bearer tid=1"],
    ["POST", "/responses", "Bearer tid=1"],
  ]);
  const named = Object.keys(upstream.seen[1]?.headers ?? {}).filter((name) => /^(?:editor|copilot-integration)/.test(name));
  expect(named).toEqual([]);
});

test.each<[Readonly<Record<string, unknown>>, string, string | undefined]>([
  [{ messages: [{ role: "user", content: "hi" }] }, "user", undefined],
  [
    {
      messages: [
        { role: "user", content: "hi" },
        { role: "tool", content: "5" },
      ],
    },
    "agent",
    undefined,
  ],
  [{ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:" } }] }] }, "user", "true"],
  [{ input: "hi" }, "user", undefined],
  [{ input: [{ role: "user", content: [{ type: "input_image" }] }, { type: "function_call_output" }] }, "agent", "true"],
  [{ messages: 5 }, "agent", undefined],
])("who began %j: the %s", async (body, initiator, vision) => {
  answering();
  await asked(upstream, relayed(), { body });
  const headers = upstream.seen[1]?.headers ?? {};
  expect([headers["x-initiator"], headers["copilot-vision-request"], headers["x-request-id"]]).toEqual([initiator, vision, "req_1"]);
});

test("an assistant's text is one, and one demanded tool is the only one offered", async () => {
  answering();
  const tool = (name: string) => ({ type: "function", function: { name } });
  const assistant = { role: "assistant", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }, 5] };
  await asked(upstream, relayed(), { body: { messages: [assistant, 1], tools: [tool("f"), tool("g")], tool_choice: tool("g") } });
  expect(upstream.seen[1]?.body).toEqual({ messages: [{ role: "assistant", content: "ab" }, 1], tools: [tool("g")], tool_choice: "required" });
});
