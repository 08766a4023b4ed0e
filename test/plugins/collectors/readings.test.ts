// What each provider's answer means, whole and broken: unknown is never 0, and one bad entry never takes the others with it.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { QuotaReading } from "../../../src/core/credential.ts";
import { patternMatcher } from "../../../src/pool/patterns.ts";
import { antigravity, readModels, readSummary } from "../../../src/plugins/collectors/antigravity.ts";
import { claude } from "../../../src/plugins/collectors/claude.ts";
import { codex } from "../../../src/plugins/collectors/codex.ts";
import type { Collector } from "../../../src/plugins/collectors/collector.ts";
import { copilot } from "../../../src/plugins/collectors/copilot.ts";
import type { Fields } from "../../../src/plugins/collectors/fields.ts";
import { gemini } from "../../../src/plugins/collectors/gemini.ts";
import { kiro } from "../../../src/plugins/collectors/kiro.ts";
import { qwen } from "../../../src/plugins/collectors/qwen.ts";
import { Secret } from "../../../src/core/secret.ts";
import { credentialOf, inMs, NOW } from "./collectors-kit.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

const credentialFor = ({ provider }: Collector) => credentialOf(provider === "kiro" ? "openai-compatible" : provider, { project: "p-1" });
const read = (collector: Collector, body: unknown): readonly QuotaReading[] =>
  collector.requests(credentialFor(collector))[0]?.read(body as Fields, NOW) ?? [];
/** group -> what is left, in percent. */
const left = (readings: readonly QuotaReading[]): Record<string, number> =>
  Object.fromEntries(readings.map(({ group, remainingRatio }) => [group, Math.round(remainingRatio * 1_000) / 10]));
const countsFor = ({ models }: QuotaReading, model: string): boolean =>
  models === undefined || models.some((pattern) => patternMatcher(pattern)(model));
const groupsFor = (readings: readonly QuotaReading[], model: string): string[] =>
  readings.filter((reading) => countsFor(reading, model)).map(({ group }) => group);

describe("Claude", () => {
  const body = {
    five_hour: { utilization: 37.4, resets_at: inMs(2 * HOUR) },
    seven_day: { utilization: "80.5", resets_at: inMs(3 * DAY) },
    seven_day_opus: { utilization: 100, resets_at: null },
    seven_day_sonnet: null,
    extra_usage: { is_enabled: true, monthly_limit: 1_000, used_credits: 1_000, utilization: 100 },
  };

  test("utilization is what is used, 0 to 100; the windows of a model count for it alone", () => {
    const readings = read(claude, body);
    expect(left(readings)).toEqual({ "5h": 62.6, "7d": 19.5, "7d_opus": 0 });
    expect(readings[0]).toMatchObject({ resetsAt: NOW + 2 * HOUR, windowMs: 5 * HOUR });
    expect(readings[2]).toMatchObject({ resetsAt: null, windowMs: 7 * DAY });
    expect(groupsFor(readings, "claude-sonnet-4-5")).toEqual(["5h", "7d"]);
    expect(groupsFor(readings, "claude-opus-4-5")).toEqual(["5h", "7d", "7d_opus"]);
  });

  test("only logins have a subscription", () => {
    expect(claude.applies?.(credentialOf("anthropic", { apiKey: new Secret("sk-ant-api03-x") }))).toBe(false);
    expect(claude.applies?.(credentialOf("anthropic", { apiKey: new Secret("sk-ant-oat01-x") }))).toBe(true);
    expect(claude.leastIntervalMs).toBeGreaterThanOrEqual(60_000);
  });

  test.each([{}, { five_hour: null }, { five_hour: { utilization: null } }, { five_hour: { utilization: "much" } }, { five_hour: [1] }])(
    "%j says nothing",
    (broken) => expect(read(claude, broken)).toEqual([]),
  );

  test("beyond all is nothing left, and less than nothing is whole", () => {
    expect(left(read(claude, { five_hour: { utilization: 140 }, seven_day: { utilization: -3 } }))).toEqual({ "5h": 0, "7d": 100 });
  });
});

describe("Codex", () => {
  const window = (used: unknown, seconds?: unknown, more: object = {}) => ({ used_percent: used, limit_window_seconds: seconds, ...more });

  test("windows are called by their length, whatever their place; numbers may be texts", () => {
    const at = NOW / 1_000 + 600;
    const plain = read(codex, {
      rate_limit: {
        primary_window: window(37.4, 18_000, { reset_at: at }),
        secondary_window: window("80.5", "604800", { reset_after_seconds: "3600" }),
      },
    });
    expect(left(plain)).toEqual({ session: 62.6, weekly: 19.5 });
    expect(plain.map(({ resetsAt, windowMs }) => [resetsAt, windowMs])).toEqual([
      [NOW + 600_000, 5 * HOUR],
      [NOW + HOUR, 7 * DAY],
    ]);
    expect(left(read(codex, { rate_limit: { primary_window: window(10, 604_800) } }))).toEqual({ weekly: 90 });
    expect(left(read(codex, { rate_limit: { primary_window: window(10, undefined, { reset_after_seconds: 200_000 }) } }))).toEqual({ weekly: 90 });
    expect(left(read(codex, { rate_limit: { primary_window: window(10), secondary_window: window(20) } }))).toEqual({ session: 90, weekly: 80 });
    expect(left(read(codex, { rate_limit: { primary_window: window(10, 604_800), secondary_window: window(20, 604_800) } }))).toEqual({
      weekly: 90,
      secondary: 80,
    });
  });

  test("a limit of some models counts for them, code reviews for no chat", () => {
    const readings = read(codex, {
      rate_limit: { primary_window: window(10, 18_000) },
      code_review_rate_limit: { primary_window: window(100, 604_800) },
      additional_rate_limits: [
        { limit_name: "GPT-5.3-Codex-Spark", rate_limit: { primary_window: window(50, 18_000), secondary_window: window(100, 604_800) } },
        { limit_name: "gpt-5.1-codex-mini", rate_limit: { primary_window: window(25, 18_000) } },
        { metered_feature: "Deep Research", rate_limit: { primary_window: window(100, 18_000) } },
      ],
    });
    expect(left(readings)).toEqual({
      session: 90,
      "spark-session": 50,
      "spark-weekly": 0,
      "gpt-5.1-codex-mini-session": 75,
      "deep-research-session": 0,
      "code-review-weekly": 0,
    });
    expect(groupsFor(readings, "gpt-5.1-codex")).toEqual(["session"]);
    expect(groupsFor(readings, "gpt-5.1-codex-mini")).toEqual(["session", "gpt-5.1-codex-mini-session"]);
    expect(groupsFor(readings, "gpt-5.3-codex-spark")).toEqual(["session", "spark-session", "spark-weekly"]);
  });

  test("one bad entry does not take the others with it", () => {
    const readings = read(codex, {
      rate_limit: { primary_window: "x", secondary_window: window(20, 604_800) },
      additional_rate_limits: [null, 3, "x", { limit_name: 5, rate_limit: null }, { limit_name: "Spark", rate_limit: { primary_window: window(1) } }],
    });
    expect(left(readings)).toEqual({ weekly: 80, "spark-session": 99 });
    expect(read(codex, { additional_rate_limits: "none", rate_limit: [] })).toEqual([]);
  });
});

describe("Copilot", () => {
  const reset = { quota_reset_date: "2026-02-01", quota_reset_date_utc: "2026-02-01T00:00:00.000Z" };

  test("the percentage counts before the numbers, and is clamped; what is unlimited is no quota", () => {
    const readings = read(copilot, {
      ...reset,
      quota_snapshots: {
        chat: { unlimited: true, entitlement: 0, percent_remaining: 100 },
        completions: { entitlement: 4_000, remaining: 1_000 },
        premium_interactions: { entitlement: 300, remaining: 1, percent_remaining: 104.2, overage_permitted: true },
      },
    });
    expect(left(readings)).toEqual({ completions: 25, premium: 100 });
    expect(readings[1]).toMatchObject({ limit: 300, unit: "requests", resetsAt: Date.UTC(2026, 1, 1) });
  });

  test("premium requests pay for large models only, completions for none", () => {
    const readings = read(copilot, { quota_snapshots: { completions: { percent_remaining: 0 }, premium_interactions: { percent_remaining: "0" } } });
    expect(left(readings)).toEqual({ completions: 0, premium: 0 });
    for (const model of ["gpt-4o", "gpt-4.1", "gpt-5-mini"]) expect(groupsFor(readings, model)).toEqual([]);
    for (const model of ["claude-sonnet-4.5", "gpt-5", "gpt-5.1-codex", "o3", "gemini-2.5-pro"])
      expect(groupsFor(readings, model)).toEqual(["premium"]);
  });

  test("the free tier counts a month's chats for all models", () => {
    const readings = read(copilot, {
      access_type_sku: "free_limited_copilot",
      limited_user_quotas: { chat: 5, completions: 2_000 },
      monthly_quotas: { chat: 50, completions: 4_000 },
      limited_user_reset_date: "2026-01-20",
    });
    expect(left(readings)).toEqual({ chat: 10, completions: 50 });
    expect(readings[0]).toMatchObject({ resetsAt: Date.UTC(2026, 0, 20), limit: 50 });
    expect(groupsFor(readings, "gpt-4o")).toEqual(["chat"]);
    expect(left(read(copilot, { limited_user_quotas: { chat: 25 } }))).toEqual({ chat: 50 });
  });

  test.each([{}, { quota_snapshots: null }, { quota_snapshots: { chat: {} } }, { quota_snapshots: { chat: { entitlement: -1, remaining: 0 } } }])(
    "%j says nothing",
    (body) => expect(read(copilot, body)).toEqual([]),
  );
});

describe("Gemini CLI", () => {
  const bucket = (modelId: string, more: object) => ({ modelId, tokenType: "REQUESTS", resetTime: inMs(HOUR), ...more });

  test("models that share a quota are one group; the preferred one speaks for it", () => {
    const readings = read(gemini, {
      buckets: [
        bucket("gemini-2.5-flash", { remainingFraction: 0.2, resetTime: inMs(30 * 60_000) }),
        bucket("gemini-3-flash-preview_vertex", { remainingFraction: "0.75" }),
        bucket("gemini-2.5-flash-lite", { remaining_fraction: 1 }),
        bucket("gemini-2.5-pro", {}),
        bucket("gemini-2.0-flash", { remainingFraction: 0 }),
        bucket("gemini-9-ultra", { remainingFraction: 0.5 }),
      ],
    });
    expect(left(readings)).toEqual({ "flash-lite": 100, flash: 75, pro: 0, "gemini-9-ultra": 50 });
    expect(readings[1]?.resetsAt).toBe(NOW + 30 * 60_000);
    expect(groupsFor(readings, "gemini-2.5-flash")).toEqual(["flash"]);
    expect(groupsFor(readings, "gemini-2.5-flash-lite")).toEqual(["flash-lite"]);
  });

  test.each([
    ["nothing but a reset is 0", { resetTime: inMs(HOUR) }, { pro: 0 }],
    ["an amount of 0 is 0", { remainingAmount: "0" }, { pro: 0 }],
    ["an amount without its whole is unknown", { remainingAmount: "100", resetTime: inMs(HOUR) }, {}],
    ["nothing at all is unknown", { resetTime: "" }, {}],
  ])("%s", (_what, more, expected) => {
    expect(left(read(gemini, { buckets: [{ modelId: "gemini-2.5-pro", ...more }, null, 7] }))).toEqual(expected);
  });

  test("asks about the first project", () => {
    const [request] = gemini.requests(credentialOf("gemini-cli", { project: "p-1, p-2" }));
    expect(request).toMatchObject({ method: "POST", path: "/v1internal:retrieveUserQuota", body: { project: "p-1" } });
  });
});

describe("Antigravity", () => {
  const groups = [
    {
      displayName: "Gemini models",
      buckets: [
        { bucketId: "gemini-5h", remainingFraction: 0.9, resetTime: inMs(HOUR) },
        { bucketId: "gemini-weekly", remaining: { remainingFraction: 0.5 }, resetTime: inMs(DAY) },
        { bucketId: "gemini-other", remainingFraction: 0 },
      ],
    },
    {
      displayName: "Claude and GPT models",
      buckets: [{ bucketId: "3p-session", resetTime: inMs(HOUR) }, { bucketId: "3p-weekly", remainingFraction: 0, disabled: true }, "broken"],
    },
    { displayName: "Something else", buckets: [{ bucketId: "x-5h", remainingFraction: 0 }] },
  ];

  test.each([
    ["plain", { groups }],
    ["in a response", { response: { groups } }],
    ["in a summary", { summary: { groups } }],
  ])("a summary, %s: an exhausted group blocks its own models only", (_how, body) => {
    const readings = readSummary(body, NOW);
    expect(left(readings)).toEqual({ "gemini-session": 90, "gemini-weekly": 50, "claude-gpt-session": 0 });
    expect(readings[0]).toMatchObject({ windowMs: 5 * HOUR, resetsAt: NOW + HOUR });
    expect(groupsFor(readings, "gemini-3-pro-high")).toEqual(["gemini-session", "gemini-weekly"]);
    expect(groupsFor(readings, "claude-opus-4-5-thinking")).toEqual(["claude-gpt-session"]);
  });

  test("single models are grouped: the least counts, the first reset; without a fraction nothing is left", () => {
    const readings = readModels(
      {
        models: {
          "gemini-3-pro-high": { displayName: "Gemini 3 Pro", quotaInfo: { remainingFraction: 0.5, resetTime: inMs(DAY) } },
          "gemini-3-pro-low": { quotaInfo: { remainingFraction: 0.9, resetTime: inMs(HOUR) } },
          "gemini-3-flash": { quotaInfo: { remainingFraction: 1.2 } },
          "claude-sonnet-4-5": { quotaInfo: { resetTime: inMs(HOUR) } },
          "gpt-oss-120b-medium": { quotaInfo: { remainingFraction: 0.2 } },
          "chat-bison": { quotaInfo: { remainingFraction: 0 } },
          broken: null,
        },
      },
      NOW,
    );
    expect(left(readings)).toEqual({ "claude-gpt": 0, "gemini-pro": 50, "gemini-flash": 100 });
    expect(readings.find(({ group }) => group === "gemini-pro")?.resetsAt).toBe(NOW + HOUR);
    expect(groupsFor(readings, "gemini-3-flash")).toEqual(["gemini-flash"]);
  });

  test("is asked in two ways, with the project and without", () => {
    const asked = antigravity.requests(credentialOf("antigravity", { project: "p-1" })).map(({ path, body }) => [path.split(":")[1], body]);
    expect(asked).toEqual([
      ["retrieveUserQuotaSummary", { project: "p-1" }],
      ["retrieveUserQuotaSummary", {}],
      ["fetchAvailableModels", { project: "p-1" }],
      ["fetchAvailableModels", {}],
    ]);
  });
});

describe("Kiro", () => {
  const row = { resourceType: "CREDIT", displayName: "Credits", currentUsageWithPrecision: 45.5, currentUsage: 45, usageLimit: 50 };
  const trial = { freeTrialStatus: "ACTIVE", freeTrialExpiry: NOW / 1_000 + 600, currentUsage: 100, usageLimit: 500 };

  test("a plan alone is one quota", () => {
    const readings = read(kiro, { usageBreakdownList: [row], nextDateReset: NOW / 1_000 + 3_600 });
    expect(readings).toEqual([{ group: "credits", remainingRatio: 0.09, resetsAt: NOW + HOUR, limit: 50, unit: "credits" }]);
  });

  test("an account has run out when its trial has, too", () => {
    const spent = { ...row, currentUsageWithPrecision: 50 };
    const readings = read(kiro, { usageBreakdownList: [{ ...spent, freeTrialInfo: trial }] });
    expect(left(readings)).toEqual({ credits: 72.7, credit: 0, "bonus-credit": 80 });
    expect(groupsFor(readings, "claude-sonnet-4-5")).toEqual(["credits"]);
    const both = read(kiro, { usageBreakdownList: [{ ...spent, freeTrialInfo: { ...trial, currentUsage: 500 } }] });
    expect(left(both)).toEqual({ credits: 0, credit: 0, "bonus-credit": 0 });
    expect(left(read(kiro, { usageBreakdownList: [{ ...spent, freeTrialInfo: { ...trial, freeTrialStatus: "EXPIRED" } }] }))).toEqual({ credits: 0 });
  });

  test.each([
    {},
    { usageBreakdownList: [{ usageLimit: 0, currentUsage: 0 }] },
    { usageBreakdownList: [{ usageLimit: 50 }] },
    { usageBreakdownList: "x" },
  ])("%j says nothing", (body) => expect(read(kiro, body)).toEqual([]));

  test("is asked in the region of its profile", () => {
    const at = (more: object): string => kiro.baseUrl({ ...credentialOf("openai-compatible"), ...more });
    const profileArn = "arn:aws:codewhisperer:eu-central-1:000000000000:profile/EXAMPLE";
    expect(at({})).toBe("https://q.us-east-1.amazonaws.com");
    expect(at({ region: "eu-west-1" })).toBe("https://q.eu-west-1.amazonaws.com");
    expect(at({ region: "eu-west-1", profileArn })).toBe("https://q.eu-central-1.amazonaws.com");
    expect(at({ profileArn: "arn:aws:codewhisperer:evil.example/:0:profile/X" })).toBe("https://q.us-east-1.amazonaws.com");
    const [request] = kiro.requests({ ...credentialOf("openai-compatible"), profileArn });
    expect(request?.path).toBe(`/getUsageLimits?origin=AI_EDITOR&resourceType=AGENTIC_REQUEST&profileArn=${encodeURIComponent(profileArn)}`);
  });
});

describe("Qwen", () => {
  test("a portal's requests of the day, until midnight UTC", () => {
    const body = { daily_request_limit: "2000", requests_used_today: 500 };
    const expected = { group: "requests-day", remainingRatio: 0.75, resetsAt: NOW + DAY, windowMs: DAY, limit: 2_000, unit: "requests" };
    expect(read(qwen, body)).toEqual([expected]);
    expect(read(qwen, { data: body })).toEqual([expected]);
    for (const broken of [{}, { daily_request_limit: 2_000 }, { daily_request_limit: 0, requests_used_today: 0 }])
      expect(read(qwen, broken)).toEqual([]);
  });

  test("only logins are asked about, where they live", () => {
    expect(qwen.applies?.(credentialOf("qwen"))).toBe(false);
    const login = credentialOf("qwen", { resourceUrl: "portal.qwen.ai" });
    expect([qwen.applies?.(login), qwen.isAtHome(login), qwen.baseUrl(login)]).toEqual([true, true, "https://portal.qwen.ai"]);
  });
});

describe("whatever an answer is", () => {
  const members = [
    ...["five_hour", "rate_limit", "primary_window", "additional_rate_limits", "quota_snapshots", "chat", "buckets", "groups", "models", "quotaInfo"],
    ...["usageBreakdownList", "freeTrialInfo", "utilization", "used_percent", "remainingFraction", "resetTime", "modelId", "bucketId", "displayName"],
  ];
  const word = fc.oneof(fc.constantFrom(...members), fc.string());
  const anything = fc.letrec((tie) => ({
    value: fc.oneof({ depthSize: "small" }, fc.jsonValue({ maxDepth: 2 }), fc.array(tie("value")), fc.dictionary(word, tie("value"))),
  })).value;

  test.each([claude, codex, copilot, gemini, antigravity, kiro, qwen])("$id reads it without a throw, and each reading is one", (collector) => {
    fc.assert(
      fc.property(fc.dictionary(word, anything), (body) => {
        for (const request of collector.requests(credentialFor(collector))) {
          const readings = request.read(body, NOW);
          expect(new Set(readings.map(({ group }) => group)).size).toBe(readings.length);
          for (const { group, remainingRatio, resetsAt } of readings) {
            expect(remainingRatio).toBeGreaterThanOrEqual(0);
            expect(remainingRatio).toBeLessThanOrEqual(1);
            expect(resetsAt === null || Number.isFinite(resetsAt)).toBe(true);
            expect(group).toMatch(/^[^\n]{1,64}$/);
          }
        }
      }),
      { numRuns: 100 },
    );
  });
});
