import { describe, expect, it } from "vitest";
import type { Credential } from "../../src/core/credential.ts";
import { providerRow, upstreamPath } from "../../src/upstream/providers.ts";

describe("providerRow", () => {
  it("has rows for OpenAI and for any server that speaks its dialect", () => {
    expect(providerRow("openai")).toMatchObject({
      id: "openai",
      dialect: "openai",
      baseUrl: "https://api.openai.com",
      paths: { chat: "/v1/chat/completions", models: "/v1/models" },
    });
    expect(providerRow("openai-compatible")).toMatchObject({ baseUrl: null, capField: "max_tokens" });
  });

  it("names the nearest id, or the generic row", () => {
    expect(() => providerRow("opnai")).toThrow('unknown provider "opnai"; did you mean "openai"?');
    expect(() => providerRow("openai_compatible")).toThrow('did you mean "openai-compatible"?');
    expect(() => providerRow("mainframe")).toThrow('use "openai-compatible" with a base_url');
    expect(() => providerRow("x".repeat(10_000))).toThrow(/^.{0,700}$/s);
    expect(() => providerRow("__proto__")).toThrow("unknown provider");
  });
});

describe("classify", () => {
  const row = providerRow("openai");
  const classify = (status: number, headers: Record<string, string>, body: Buffer | string) => row.classify(status, headers, body, 0);
  const error = (code: string, message = "m"): string => JSON.stringify({ error: { message, type: "t", param: null, code } });

  it.each([
    [400, "", "request"],
    [404, error("model_not_found"), "request"],
    [404, "", "request"],
    [409, "", "request"],
    [413, "", "request"],
    [422, "", "request"],
    [405, "", "request"],
    [401, "", "credential"],
    [402, "", "credential"],
    [403, "", "credential"],
    // The project has no access to the model; another account may have.
    [403, error("model_not_found", "Project `p` does not have access to model `m`"), "credential"],
    [400, '{"type":"error","error":{"type":"authentication_error","message":"m"}}', "credential"],
    [429, error("rate_limit_exceeded"), "capacity"],
    [429, "", "capacity"],
    [408, "", "capacity"],
    [500, error("insufficient_quota"), "capacity"],
    [502, "", "capacity"],
    [503, "", "capacity"],
    [504, "", "capacity"],
    [529, "", "capacity"],
    [302, "", "capacity"],
  ] as const)("%i %s is a fault of the %s, told of the model", (status, body, fault) => {
    const verdict = { fault, isAccountWide: false, waitMs: null };
    expect(classify(status, {}, body)).toEqual(verdict);
    expect(classify(status, {}, Buffer.from(body))).toEqual(verdict);
  });

  it.each([
    [401, error("invalid_api_key")],
    [400, error("invalid_api_key")],
    [429, error("insufficient_quota")],
    [429, '{"error":{"message":"m","type":"insufficient_quota","code":null}}'],
    [402, error("billing_not_active")],
    [429, error("billing_hard_limit_reached")],
    [400, '{"type":"error","error":{"type":"billing_error","message":"m"}}'],
    [403, error("account_deactivated")],
    [403, error("access_terminated")],
    [403, error("access_terminated_error")],
    [400, '{"error":"invalid_grant","error_description":"m"}'],
    [400, '{"error":"x","type" : "invalid_grant"}'],
    // A code is said on purpose, words may be an echo.
    [403, error("invalid_api_key", "content policy violation")],
  ])("%i %s is a fault of the whole account", (status, body) => {
    const verdict = { fault: "credential", isAccountWide: true, waitMs: null };
    expect(classify(status, {}, body)).toEqual(verdict);
    expect(classify(status, {}, Buffer.from(body))).toEqual(verdict);
  });

  const WORDS = [
    "Rejected by our Content Policy.",
    "the content management policy of Azure",
    "POLICY VIOLATION",
    "Model not found: gpt-9",
    "The model does not exist",
    "Unsupported model gpt-9",
  ];
  it.each(WORDS)("words about the request itself speak louder than a 403: %s", (words) => {
    for (const body of [error("x", words), `<p>${words}</p>`, `${" ".repeat(8_000)}${words}`]) {
      for (const status of [400, 403, 404, 408]) expect(classify(status, {}, Buffer.from(body)).fault, `${status} ${body}`).toBe("request");
    }
  });

  it.each(WORDS)("but not than 401, 402, 429 or a failing server: %s", (words) => {
    const body = Buffer.from(error("x", words));
    expect([401, 402, 429, 500, 503].map((status) => classify(status, {}, body).fault)).toEqual([
      "credential",
      "credential",
      "capacity",
      "capacity",
      "capacity",
    ]);
  });

  it("looks at the first 8 KiB only", () => {
    expect(classify(403, {}, `${" ".repeat(8_192)}content policy`).fault).toBe("credential");
    expect(classify(400, {}, `${" ".repeat(8_192)}${error("invalid_api_key")}`).fault).toBe("request");
  });

  it.each([
    ["inside a message", { error: { message: 'bad value: {"code": "invalid_api_key"}', code: "bad_value" } }],
    ["inside what a validator repeats", { detail: [{ loc: ["body"], input: { code: "invalid_api_key", error: { code: "insufficient_quota" } } }] }],
    ["inside a nested error", { error: { message: "m", code: null, innererror: { code: "invalid_api_key" } } }],
  ])("cannot be led by a client's text that the provider repeats %s", (_where, echoed) => {
    expect(classify(422, {}, JSON.stringify(echoed))).toEqual({ fault: "request", isAccountWide: false, waitMs: null });
  });

  it("cannot be led by a client's text that the provider repeats as it came", () => {
    expect(classify(400, {}, 'cannot read: {"model":"m","error":{"code":"invalid_api_key"}}').fault).toBe("request");
  });

  it.each([
    ["null", "null"],
    ["a list", '[{"error":{"code":"invalid_api_key"}}]'],
    ["a number", "1"],
    ["codes that are no text", '{"error":{"code":401,"type":{}},"code":[],"type":null}'],
    ["codes that only begin like one", '{"error":{"code":"billing_","type":"invalid_api_keys"}}'],
  ])("takes %s for no code", (_what, body) => {
    expect(classify(400, {}, body)).toEqual({ fault: "request", isAccountWide: false, waitMs: null });
  });

  it.each<[string, number, Record<string, string>]>([
    ["by its own header", 403, { "cf-mitigated": "challenge" }],
    ["by its own header, whatever the status", 429, { "cf-mitigated": "Challenge", "content-type": "application/json" }],
    ["as a page with 403", 403, { server: "cloudflare", "content-type": "text/html; charset=UTF-8" }],
    ["as a page with 503", 503, { server: "Cloudflare", "content-type": "text/html" }],
  ])("a Cloudflare challenge %s is no fault of the credential, and over soon", (_how, status, headers) => {
    const page = "<!DOCTYPE html><title>Just a moment...</title>";
    expect(classify(status, headers, page)).toEqual({ fault: "capacity", isAccountWide: false, waitMs: 10_000 });
  });

  it.each<[string, number, Record<string, string>, string]>([
    ["a provider's JSON that came through Cloudflare", 403, { server: "cloudflare", "content-type": "application/json" }, "credential"],
    ["somebody else's page", 403, { server: "nginx", "content-type": "text/html" }, "credential"],
    ["a page with another status", 401, { server: "cloudflare", "content-type": "text/html" }, "credential"],
    ["another mitigation", 403, { "cf-mitigated": "block" }, "credential"],
  ])("no challenge: %s", (_what, status, headers, fault) => {
    expect(classify(status, headers, "")).toEqual({ fault, isAccountWide: false, waitMs: null });
  });

  it("gives the same verdict as the same object, which nobody can change", () => {
    const first = classify(429, {}, "");
    expect(classify(429, {}, "")).toBe(first);
    expect(Object.isFrozen(first)).toBe(true);
  });
});

describe("retryAfterMs", () => {
  const { retryAfterMs } = providerRow("openai");
  const now = Date.parse("2026-11-20T10:00:00Z");
  const days = (count: number): number => count * 24 * 60 * 60 * 1000;

  it.each([
    [{ "retry-after": "2" }, 2_000],
    [{ "retry-after": "0" }, 0],
    [{ "retry-after": "1.5" }, 1_500],
    [{ "retry-after": " 3 " }, 3_000],
    [{ "retry-after": "Fri, 20 Nov 2026 10:00:30 GMT" }, 30_000],
    [{ "retry-after": "Friday, 20-Nov-26 10:00:30 GMT" }, 30_000],
    [{ "retry-after": "Fri Nov 20 10:00:30 2026" }, 30_000],
    [{ "retry-after-ms": "250.4" }, 251],
    [{ "retry-after-ms": "250", "retry-after": "9" }, 250],
    [{ "retry-after-ms": "-1", "retry-after": "9" }, 9_000],
    [{ "retry-after": "604800" }, days(7)],
    [{ "retry-after": "1795169100" }, 300_000],
    [{ "retry-after": "1000000000000" }, days(400)],
    [{ "retry-after-ms": "99999999999999999999" }, days(400)],
    [{ "retry-after": "Sat, 20 Nov 2027 10:00:00 GMT" }, days(365)],
    [{ "x-ratelimit-reset-requests": "6m0s" }, 360_000],
    [{ "x-ratelimit-reset-requests": "1h2m3.5s" }, 3_723_500],
    [{ "x-ratelimit-reset-tokens": "20ms" }, 20],
    [{ "x-ratelimit-reset-requests": "8s", "x-ratelimit-reset-tokens": "2s" }, 2_000],
    [
      {
        "x-ratelimit-reset-requests": "8s",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-tokens": "2s",
        "x-ratelimit-remaining-tokens": "500",
      },
      8_000,
    ],
    [
      {
        "x-ratelimit-reset-requests": "8s",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-tokens": "9s",
        "x-ratelimit-remaining-tokens": "0",
      },
      9_000,
    ],
    [{ "retry-after": "junk", "x-ratelimit-reset-tokens": "2s" }, 2_000],
    [{ "x-ratelimit-reset-requests": "400h" }, days(400 / 24)],
    [{ "x-ratelimit-reset-requests": "5" }, 5_000],
  ])("%j → %s", (headers, expected) => {
    expect(retryAfterMs(headers, now, true)).toBe(expected);
  });

  it.each([
    {},
    { "retry-after": "" },
    { "retry-after": "-5" },
    { "retry-after": "soon" },
    { "retry-after": "NaN" },
    { "retry-after": "Infinity" },
    { "retry-after": "1e3" },
    { "retry-after": "0x10" },
    { "retry-after": "2026-11-20" },
    { "retry-after": "Fri, 20 Nov 2026 09:00:00 GMT" },
    { "retry-after": "Fri, 20 Nov 2037 10:00:30 GMT" },
    { "retry-after": "Fri, 99 Zzz 2026 10:00:30 GMT" },
    { "retry-after": ["1", "2"] },
    { "retry-after": `Mon ${"9".repeat(1e5)}` },
    { "x-ratelimit-reset-requests": "-1s" },
    { "x-ratelimit-reset-requests": "5 minutes" },
    { "x-ratelimit-reset-requests": "1s".repeat(1e4) },
  ])("ignores %j", (headers) => {
    expect(retryAfterMs(headers, now, true)).toBeNull();
  });

  it("believes a limit's reset only when the limit is what refused", () => {
    const headers = { "x-ratelimit-reset-requests": "6ms", "x-ratelimit-remaining-requests": "9999" };
    expect(retryAfterMs(headers, now, false)).toBeNull();
    expect(retryAfterMs({ ...headers, "retry-after": "2" }, now, false)).toBe(2_000);
    expect(retryAfterMs(headers, now, true)).toBe(6);
  });
});

describe("a path below the credential's base", () => {
  it.each([
    ["", "/v1/chat/completions", "/v1/chat/completions"],
    ["/openai", "/v1/models", "/openai/v1/models"],
    ["/api/paas/v4", "/v1/chat/completions", "/api/paas/v4/chat/completions"],
    ["/v1beta", "/v1/models", "/v1beta/models"],
    ["/dev4", "/v1/models", "/dev4/v1/models"],
    ["/api/v4", "/models", "/api/v4/models"],
  ])("%s and %s is %s: a version that the base names stands in place of ours", (basePath, path, expected) => {
    expect(upstreamPath({ basePath } as Credential, path)).toBe(expected);
  });
});
