// One question, over a real socket: who is asked with what, and what becomes of every kind of answer.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Credential } from "../../../src/core/credential.ts";
import { Secret } from "../../../src/core/secret.ts";
import { systemClock } from "../../../src/core/time.ts";
import { guardedFetch } from "../../../src/guarded-fetch.ts";
import { antigravity } from "../../../src/plugins/collectors/antigravity.ts";
import { askQuotas, type Asking } from "../../../src/plugins/collectors/ask.ts";
import { claude } from "../../../src/plugins/collectors/claude.ts";
import { codex } from "../../../src/plugins/collectors/codex.ts";
import { COLLECTOR_IDS, type Collector, type CollectorId } from "../../../src/plugins/collectors/collector.ts";
import { copilot } from "../../../src/plugins/collectors/copilot.ts";
import { gemini } from "../../../src/plugins/collectors/gemini.ts";
import { kiro } from "../../../src/plugins/collectors/kiro.ts";
import type { Outcome } from "../../../src/plugins/collectors/outcome.ts";
import { qwen } from "../../../src/plugins/collectors/qwen.ts";
import { undiciTransport } from "../../../src/upstream/transport.ts";
import { credentialOf, hang, json, quotaServer, type QuotaServer, type Script } from "./collectors-kit.ts";

const COLLECTORS = [claude, codex, copilot, gemini, antigravity, kiro, qwen];
const JWT = [
  "e30",
  Buffer.from(JSON.stringify({ "https://api.openai.com/auth": { chatgpt_account_id: "acct-1" } })).toString("base64url"),
  "sig",
].join(".");

const credentials: Readonly<Record<CollectorId, Credential>> = {
  claude: credentialOf("anthropic", { apiKey: new Secret("sk-ant-oat01-token") }),
  codex: credentialOf("codex", { apiKey: new Secret(JWT) }),
  copilot: credentialOf("copilot", { apiKey: new Secret("ghu_token") }),
  gemini: credentialOf("gemini-cli", { project: "p-1" }),
  antigravity: credentialOf("antigravity", { project: "p-1" }),
  kiro: credentialOf("openai-compatible", { provider: "kiro", origin: "https://q.us-east-1.amazonaws.com", basePath: "" }),
  qwen: credentialOf("qwen", { resourceUrl: "portal.qwen.ai" }),
};

/** An answer of each that says that a tenth is left. */
const TENTH: Readonly<Record<CollectorId, unknown>> = {
  claude: { five_hour: { utilization: 90 } },
  codex: { rate_limit: { primary_window: { used_percent: 90 } } },
  copilot: { quota_snapshots: { premium_interactions: { percent_remaining: 10 } } },
  gemini: { buckets: [{ modelId: "gemini-2.5-pro", remainingFraction: 0.1 }] },
  antigravity: { groups: [{ displayName: "Gemini", buckets: [{ bucketId: "gemini-5h", remainingFraction: 0.1 }] }] },
  kiro: { usageBreakdownList: [{ resourceType: "CREDIT", currentUsage: 45, usageLimit: 50 }] },
  qwen: { daily_request_limit: 1_000, requests_used_today: 900 },
};

let server: QuotaServer;
const transport = undiciTransport({ connectTimeoutMs: 2_000, clock: systemClock });
const ending = new AbortController();
const fetch = guardedFetch({ clock: systemClock, transport: () => transport, signal: ending.signal });

beforeAll(async () => void (server = await quotaServer()));
afterEach(() => void server.asked.splice(0));
afterAll(async () => {
  await server.close();
  await transport.close();
});

function ask(collector: Collector, more: Partial<Asking> & { readonly credential?: Credential } = {}): Promise<Outcome> {
  const { credential = credentials[collector.id], ...rest } = more;
  const endpoints = Object.fromEntries(COLLECTOR_IDS.map((id) => [id, server.url]));
  return askQuotas(collector, credential, { fetch, now: Date.now, endpoints, timeoutMs: 5_000, signal: ending.signal, ...rest });
}

describe("a question", () => {
  test.each(COLLECTORS)("of $id says who asks, and its answer says what is left", async (collector) => {
    server.answer(json(TENTH[collector.id]));
    const outcome = await ask(collector);
    expect(outcome).toMatchObject({ kind: "ok", readings: [expect.objectContaining({ remainingRatio: expect.closeTo(0.1, 9) as number })] });
    const [asked] = server.asked;
    const [request] = collector.requests(credentials[collector.id]);
    expect([asked?.method, asked?.url]).toEqual([request?.method, request?.path]);
    expect(asked?.headers.authorization).toBe(`Bearer ${credentials[collector.id].apiKey?.reveal()}`);
    expect(asked?.headers["user-agent"]).toMatch(/^quotaguard\//);
    if (request?.body) expect(JSON.parse(asked?.body ?? "")).toEqual(request.body);
  });

  test("has what its provider wants to be told", async () => {
    server.answer(json(TENTH.claude));
    await ask(claude);
    expect(server.asked[0]?.headers).toMatchObject({ "anthropic-beta": "oauth-2025-04-20" });
    await ask(codex);
    expect(server.asked[1]?.headers).toMatchObject({ "chatgpt-account-id": "acct-1", accept: "application/json" });
    await ask(copilot);
    expect(server.asked[2]?.headers).toMatchObject({ accept: "application/vnd.github+json", "x-github-api-version": "2022-11-28" });
  });

  test("has the operator's own headers as requests have them, however they are written", async () => {
    server.answer(json(TENTH.codex));
    const headers = { "ChatGPT-Account-Id": "acct-2", "User-Agent": "a-client", Accept: "text/html" };
    await ask(codex, { credential: { ...credentials.codex, headers } });
    expect(server.asked[0]?.headers).toMatchObject({ "chatgpt-account-id": "acct-2", "user-agent": "a-client", accept: "application/json" });
  });

  test("goes where the credential lives, if that is not its provider's home: its key is somebody else's", async () => {
    server.answer(json(TENTH.codex));
    const outcome = await ask(codex, { endpoints: {}, credential: credentialOf("codex", { origin: server.url, basePath: "/relay" }) });
    expect(outcome.kind).toBe("ok");
    expect(server.asked.map(({ url }) => url)).toEqual(["/relay/wham/usage"]);
  });

  test("does not go to a private address that only a name leads to", async () => {
    const named = credentialOf("codex", { origin: server.url.replace("127.0.0.1", "private.localhost"), basePath: "" });
    expect((await ask(codex, { endpoints: {}, credential: named })).kind).toBe("failed");
    expect(server.asked).toEqual([]);
  });

  test("without an endpoint goes to the provider's own address only", async () => {
    const urls: string[] = [];
    const spied: Asking["fetch"] = (url, init) => {
      urls.push(`${String(url)} ${(init?.allow ?? []).join(",")}`);
      return Promise.reject(new TypeError("not from here"));
    };
    for (const collector of COLLECTORS)
      expect(await ask(collector, { fetch: spied, endpoints: {} })).toEqual({ kind: "failed", reason: "TypeError" });
    expect(urls).toEqual([
      "https://api.anthropic.com/api/oauth/usage ",
      "https://chatgpt.com/backend-api/wham/usage ",
      "https://api.github.com/copilot_internal/user ",
      "https://cloudcode-pa.googleapis.com/v1internal:retrieveUserQuota ",
      "https://cloudcode-pa.googleapis.com/v1internal:retrieveUserQuotaSummary ",
      "https://q.us-east-1.amazonaws.com/getUsageLimits?origin=AI_EDITOR&resourceType=AGENTIC_REQUEST ",
      "https://portal.qwen.ai/v1/account/quota ",
    ]);
  });
});

describe("an answer", () => {
  const huge: Script = (_asked, res) => void res.writeHead(200).end(`{"five_hour":"${"x".repeat(3 * 1024 * 1024)}"}`);

  test.each<[string, Script, Outcome["kind"], object]>([
    ["401", json({}, 401), "needs-login", { reason: "status 401" }],
    ["403", json({}, 403), "needs-login", {}],
    ["429 with seconds", json({}, 429, { "retry-after": "120" }), "limited", { waitMs: 120_000 }],
    ["429 without", json({}, 429), "limited", { waitMs: null }],
    ["429 for days", json({}, 429, { "retry-after": "999999" }), "limited", { waitMs: 3_600_000 }],
    ["404", json({}, 404), "unknown", { isMissing: true }],
    ["500", json({}, 500), "failed", { reason: "status 500" }],
    ["an authentication error with status 200", json({ type: "error", error: { type: "authentication_error" } }), "needs-login", {}],
    ["no quota in it", json({ plan: "max" }), "unknown", { isMissing: false }],
    ["no JSON", json("<html>"), "failed", { reason: "the answer is no JSON object" }],
    ["a list", json([1]), "failed", {}],
    ["nothing", json(""), "failed", {}],
    ["cut in the middle", (_asked, res) => void res.writeHead(200, { "content-length": "100" }).write("{", () => res.destroy()), "failed", {}],
    ["too large", huge, "failed", { reason: "upstream_protocol" }],
    ["a redirect", json({}, 302, { location: "https://elsewhere.example/" }), "failed", {}],
    ["the end of the connection", (_asked, res) => void res.destroy(), "failed", {}],
  ])("%s", async (_what, script, kind, more) => {
    server.answer(script);
    expect(await ask(claude)).toMatchObject({ kind, ...more });
  });

  test("that never comes is given up after the timeout, and at once when nobody waits any more", async () => {
    server.answer(hang);
    expect(await ask(claude, { timeoutMs: 150 })).toEqual({ kind: "failed", reason: "upstream_timeout" });
    const gone = new AbortController();
    const asked = ask(claude, { signal: gone.signal });
    gone.abort();
    expect((await asked).kind).toBe("failed");
  });

  test("that says nothing lets the next way be asked", async () => {
    server.answer((asked, res) => {
      if (asked.url.endsWith("Summary")) return json(asked.body === "{}" ? { groups: [] } : {}, asked.body === "{}" ? 200 : 400)(asked, res);
      return json({ models: { "gemini-3-flash": { quotaInfo: { remainingFraction: 0.25 } } } })(asked, res);
    });
    expect(await ask(antigravity)).toMatchObject({ kind: "ok", readings: [{ group: "gemini-flash", remainingRatio: 0.25 }] });
    expect(server.asked.map(({ url, body }) => `${url.split(":")[1]} ${body}`)).toEqual([
      'retrieveUserQuotaSummary {"project":"p-1"}',
      "retrieveUserQuotaSummary {}",
      'fetchAvailableModels {"project":"p-1"}',
    ]);
  });

  test("that refuses the login ends it: another question would be refused, too", async () => {
    server.answer(json({}, 403));
    expect((await ask(antigravity)).kind).toBe("needs-login");
    expect(server.asked).toHaveLength(1);
  });

  test("never gets into what is told of it", async () => {
    server.answer(json({ error: "sk-ant-oat01-token is revoked" }, 401));
    expect(JSON.stringify(await ask(claude))).not.toContain("sk-ant");
  });
});
