import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { durationMs, limitSync, openaiLimits, parseDuration } from "../../src/metering/openai-limits.ts";

describe("durations", () => {
  test.each([
    ["1s", 1_000],
    ["1m", 60_000],
    ["1h30m45s", 5_445_000],
    ["6m0s", 360_000],
    ["20ms", 20],
    ["1.5s", 1_500],
    ["8.64s", 8_640],
    ["1m30.5s", 90_500],
    ["16.1s", 16_100],
    ["8.05s", 8_050],
    ["1d2h", 93_600_000],
    ["2m59.56s", 179_560],
    ["0s", 0],
    [" 12ms ", 12],
    ["0.1ms", 1],
    ["7m12s500ms", 432_500],
  ])("%s", (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
    expect(durationMs(text)).toBe(ms);
  });

  test.each(["", "invalid", "5", "s", "-1s", "1s2", "1x", "1 s", "1..5s", "1,5s", "ms", "1M", "1e3s", "9".repeat(400) + "h"])(
    "%j is none: null, or 0 where a number is wanted",
    (text) => {
      expect(parseDuration(text)).toBeNull();
      expect(durationMs(text)).toBe(0);
    },
  );

  test("any combination of units adds up", () => {
    fc.assert(
      fc.property(fc.nat(23), fc.nat(59), fc.nat(59), fc.nat(999), (h, m, s, ms) => {
        expect(parseDuration(`${h}h${m}m${s}s${ms}ms`)).toBe(((h * 60 + m) * 60 + s) * 1000 + ms);
        expect(parseDuration(`${m}m${s}.${String(ms).padStart(3, "0")}s`)).toBe((m * 60 + s) * 1000 + ms);
      }),
    );
  });
});

const HEADERS = {
  "x-ratelimit-limit-requests": "500",
  "x-ratelimit-remaining-requests": "499",
  "x-ratelimit-reset-requests": "120ms",
  "x-ratelimit-limit-tokens": "100000",
  "x-ratelimit-remaining-tokens": "95000",
  "x-ratelimit-reset-tokens": "5m0s",
};

describe("openaiLimits", () => {
  test("reads both families", () => {
    expect(openaiLimits(HEADERS)).toEqual({
      requests: { limit: 500, remaining: 499, resetMs: 120 },
      tokens: { limit: 100_000, remaining: 95_000, resetMs: 300_000 },
    });
  });

  test("what is absent or no number is not known", () => {
    expect(openaiLimits({})).toEqual({ requests: null, tokens: null });
    for (const bad of ["", "-1", "many", "1.5", "1e3", "0x10", "9".repeat(16)])
      expect(openaiLimits({ ...HEADERS, "x-ratelimit-limit-tokens": bad }).tokens).toBeNull();
    expect(openaiLimits({ ...HEADERS, "x-ratelimit-remaining-tokens": undefined }).tokens).toBeNull();
    expect(openaiLimits({ ...HEADERS, "x-ratelimit-reset-tokens": undefined }).tokens).toEqual({ limit: 100_000, remaining: 95_000, resetMs: null });
    expect(openaiLimits({ ...HEADERS, "x-ratelimit-reset-tokens": "soon" }).tokens?.resetMs).toBeNull();
  });

  test("a header that came twice is not used, a list of one is", () => {
    expect(openaiLimits({ ...HEADERS, "x-ratelimit-limit-tokens": ["1", "2"] }).tokens).toBeNull();
    expect(openaiLimits({ ...HEADERS, "x-ratelimit-limit-tokens": ["200000"] }).tokens?.limit).toBe(200_000);
  });

  test("more remaining than the limit is the limit", () => {
    expect(openaiLimits({ ...HEADERS, "x-ratelimit-remaining-tokens": "200000" }).tokens?.remaining).toBe(100_000);
  });
});

describe("limitSync", () => {
  const sync = (limit: string, remaining: string, reset?: string): ReturnType<typeof limitSync> =>
    limitSync(
      { "x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": remaining, "x-ratelimit-reset-tokens": reset },
      { fallbackRefillPerSec: 5 },
    );

  test("what was spent comes back by the reset", () => {
    expect(limitSync(HEADERS, { fallbackRefillPerSec: 5 })).toEqual({ capacity: 100_000, refillPerSec: 5_000 / 300, tokens: 95_000 });
    expect(sync("60000", "59980", "20ms")).toEqual({ capacity: 60_000, refillPerSec: 1_000, tokens: 59_980 });
    expect(sync("1000", "0", "8.64s")).toEqual({ capacity: 1_000, refillPerSec: 1_000_000 / 8_640, tokens: 0 });
  });

  test("a fresh window, or one without a usable reset, refills its limit in a minute", () => {
    for (const [remaining, reset] of [
      ["60000", "0s"],
      ["60000", "6m0s"],
      ["59000", "0s"],
      ["59000", "soon"],
      ["59000", undefined],
      ["0", ""],
    ] as const) {
      expect(sync("60000", remaining, reset)).toEqual({ capacity: 60_000, refillPerSec: 1_000, tokens: Number(remaining) });
    }
  });

  test("a limit of nothing takes the fallback", () => {
    expect(sync("0", "0", "1s")).toEqual({ capacity: 0, refillPerSec: 5, tokens: 0 });
  });

  test("without token headers there is nothing to sync", () => {
    expect(limitSync({ "x-ratelimit-limit-requests": "5" }, { fallbackRefillPerSec: 5 })).toBeNull();
  });

  test("the rate is never 0 and never infinite", () => {
    const reset = fc.oneof(
      fc.nat(1e6).map((ms) => `${ms}ms`),
      fc.string(),
      fc.constant(undefined),
    );
    fc.assert(
      fc.property(fc.nat(1e9), fc.nat(1e9), reset, (limit, remaining, text) => {
        const synced = sync(String(limit), String(remaining), text);
        expect(synced?.refillPerSec).toBeGreaterThan(0);
        expect(synced?.refillPerSec).toBeLessThan(Infinity);
        expect(synced?.tokens).toBeLessThanOrEqual(limit);
      }),
    );
  });
});
