import { describe, expect, it } from "vitest";
import { providerRow, retryAfterMs } from "../../src/upstream/providers.ts";

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
    expect(() => providerRow("x".repeat(10_000))).toThrow(/^.{0,250}$/s);
    expect(() => providerRow("__proto__")).toThrow("unknown provider");
  });
});

describe("classify", () => {
  const { classify } = providerRow("openai");
  const error = (code: string): string => JSON.stringify({ error: { message: "m", type: "t", param: null, code } });

  it.each([
    [400, "", "request"],
    [404, error("model_not_found"), "request"],
    [409, "", "request"],
    [413, "", "request"],
    [422, "", "request"],
    [405, "", "request"],
    [401, "", "credential"],
    [402, "", "credential"],
    [403, "", "credential"],
    [429, error("insufficient_quota"), "credential"],
    [429, error("billing_hard_limit_reached"), "credential"],
    [400, error("invalid_api_key"), "credential"],
    [400, '{"error":"x","type" : "invalid_grant"}', "credential"],
    [429, error("rate_limit_exceeded"), "capacity"],
    [429, "", "capacity"],
    [408, "", "capacity"],
    [500, error("insufficient_quota"), "capacity"],
    [502, "", "capacity"],
    [503, "", "capacity"],
    [504, "", "capacity"],
    [529, "", "capacity"],
    [302, "", "capacity"],
  ] as const)("%i %s is a fault of the %s", (status, body, fault) => {
    expect(classify(status, {}, body)).toBe(fault);
    expect(classify(status, {}, Buffer.from(body))).toBe(fault);
  });

  it("cannot be led by a client's text that the provider repeats", () => {
    const echoed = JSON.stringify({ error: { message: 'bad value: {"code": "invalid_api_key"}', code: "bad_value" } });
    expect(classify(400, {}, echoed)).toBe("request");
    expect(classify(400, {}, `${" ".repeat(5_000)}${error("invalid_api_key")}`)).toBe("request");
  });
});

describe("retryAfterMs", () => {
  const now = Date.parse("2026-11-20T10:00:00Z");
  const day = 24 * 60 * 60 * 1000;

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
    [{ "retry-after": "1000000000000" }, day],
    [{ "retry-after-ms": "99999999999999999999" }, day],
    [{ "retry-after": "Fri, 20 Nov 2037 10:00:30 GMT" }, day],
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
    [{ "x-ratelimit-reset-requests": "400h" }, day],
  ])("%j → %s", (headers, expected) => {
    expect(retryAfterMs(headers, now)).toBe(expected);
    expect(providerRow("openai").retryAfterMs(headers, now)).toBe(expected);
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
    { "retry-after": "Fri, 99 Zzz 2026 10:00:30 GMT" },
    { "retry-after": ["1", "2"] },
    { "retry-after": `Mon ${"9".repeat(1e5)}` },
    { "x-ratelimit-reset-requests": "-1s" },
    { "x-ratelimit-reset-requests": "5" },
    { "x-ratelimit-reset-requests": "5 minutes" },
    { "x-ratelimit-reset-requests": "1s".repeat(1e4) },
  ])("ignores %j", (headers) => {
    expect(retryAfterMs(headers, now)).toBeNull();
  });
});
