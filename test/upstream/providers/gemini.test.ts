import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();
const key = configured({ provider: "gemini", apiKey: "AIza-k" });

test("a model stands in the path, a stream has a path of its own, the key has Google's header", async () => {
  upstream.answers((_seen, res) => res.end("{}"));
  for (const baseUrl of [upstream.url, `${upstream.url}/v1beta`]) {
    const credential = configured({ provider: "gemini", apiKey: "AIza-k", baseUrl });
    await asked(upstream, credential, { model: "gemini-2.5-pro" });
    await asked(upstream, credential, { model: "tuned/mine", stream: true });
    await asked(upstream, credential, { model: "gemini-2.5-pro", operation: "count_tokens" });
  }
  const paths = [
    "/v1beta/models/gemini-2.5-pro:generateContent",
    "/v1beta/models/tuned%2Fmine:streamGenerateContent?alt=sse",
    "/v1beta/models/gemini-2.5-pro:countTokens",
  ];
  expect(upstream.seen.map(({ url }) => url)).toEqual([...paths, ...paths]);
  expect(upstream.seen[0]?.headers["x-goog-api-key"]).toBe("AIza-k");
  expect(upstream.seen[0]?.headers.authorization).toBeUndefined();
});

const INFO = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY = "type.googleapis.com/google.rpc.RetryInfo";
const error = (code: number, status: string, details: readonly unknown[] = [], message = "m") => ({ error: { code, status, message, details } });

test.each<[number, unknown, string, boolean, number | null]>([
  [400, error(400, "INVALID_ARGUMENT"), "request", false, null],
  [400, error(400, "INVALID_ARGUMENT", [{ "@type": INFO, reason: "API_KEY_INVALID" }]), "credential", true, null],
  [400, error(400, "INVALID_ARGUMENT", [], "API key expired. Please renew the API key."), "credential", true, null],
  [400, error(400, "FAILED_PRECONDITION", [], "User location is not supported for the API use."), "credential", true, null],
  [401, error(401, "UNAUTHENTICATED"), "credential", false, null],
  [403, error(403, "PERMISSION_DENIED"), "credential", false, null],
  [403, error(403, "PERMISSION_DENIED", [{ "@type": INFO, reason: "SERVICE_DISABLED" }]), "credential", true, null],
  [404, error(404, "NOT_FOUND"), "request", false, null],
  [429, error(429, "RESOURCE_EXHAUSTED"), "capacity", false, null],
  [429, error(429, "RESOURCE_EXHAUSTED", [{ "@type": RETRY, retryDelay: "3.2s" }]), "capacity", false, 3_200],
  [429, [error(429, "RESOURCE_EXHAUSTED", [{ "@type": RETRY, retryDelay: "3s" }])], "capacity", false, 3_000],
  [429, error(429, "RESOURCE_EXHAUSTED", [{ "@type": INFO, metadata: { quotaResetDelay: "1h2m3.5s" } }]), "capacity", false, 3_723_500],
  [429, error(429, "RESOURCE_EXHAUSTED", [], "Your quota will reset after 12s."), "capacity", false, 12_000],
  [429, error(429, "RESOURCE_EXHAUSTED", [], "You may retry after 1h2m3s."), "capacity", false, 3_723_000],
  [429, error(429, "RESOURCE_EXHAUSTED", [{ "@type": RETRY, retryDelay: "200h" }]), "capacity", false, 720_000_000],
  [429, error(429, "RESOURCE_EXHAUSTED", [null, 1, { "@type": 5 }, { "@type": RETRY, retryDelay: -1 }]), "capacity", false, null],
  [500, error(500, "INTERNAL"), "capacity", false, null],
  [503, error(503, "UNAVAILABLE", [{ "@type": RETRY, retryDelay: "2s" }]), "capacity", false, 2_000],
  [503, "<html>", "capacity", false, null],
])("%i %j is a fault of the %s", (status, body, fault, isAccountWide, waitMs) => {
  expect(judged(key, status, body)).toEqual({ fault, isAccountWide, waitMs });
});

test("a header's wait goes before the body's", () => {
  const body = error(429, "RESOURCE_EXHAUSTED", [{ "@type": RETRY, retryDelay: "30s" }]);
  expect(judged(key, 429, body, { "retry-after": "2" }).waitMs).toBe(2_000);
});

test("a client's words in an error do not name a reason", () => {
  const body = error(400, "INVALID_ARGUMENT", [{ "@type": INFO, reason: "x", metadata: { reason: "API_KEY_INVALID" } }]);
  expect(judged(key, 400, body).fault).toBe("request");
});

const NOW = Date.parse("2026-11-20T10:00:00Z");
const FAILURE = "type.googleapis.com/google.rpc.QuotaFailure";
const spent = (details: readonly unknown[], model = "gemini-2.5-pro", status = 429, nowMs = NOW) =>
  rowOf(key).faultQuotas?.(status, {}, JSON.stringify(error(status, "RESOURCE_EXHAUSTED", details)), nowMs, model);

test("a refusal names the quotas that have run out, each with its model, its window and its size", () => {
  const violations = [
    {
      quotaMetric: "generativelanguage.googleapis.com/generate_content_free_tier_requests",
      quotaId: "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
      quotaDimensions: { location: "global", model: "gemini-2.5-pro" },
      quotaValue: "50",
    },
    { quotaId: "GenerateContentInputTokensPerModelPerMinute-FreeTier", quotaDimensions: { model: "gemini-2.5-pro" }, quotaValue: "125000" },
    { quotaId: "GenerateRequestsPerMinutePerProject" },
    { quotaMetric: "without an id" },
    { quotaId: "OfNoWindow" },
    "odd",
  ];
  const named = { remainingRatio: 0, models: ["gemini-2.5-pro", "gemini-2.5-pro-001"] };
  expect(
    spent(
      [
        { "@type": FAILURE, violations },
        { "@type": RETRY, retryDelay: "34.4s" },
      ],
      "gemini-2.5-pro-001",
    ),
  ).toEqual([
    {
      ...named,
      group: "GenerateRequestsPerDayPerProjectPerModel-FreeTier/gemini-2.5-pro",
      unit: "requests",
      limit: 50,
      windowMs: 86_400_000,
      // Midnight in California.
      resetsAt: Date.parse("2026-11-21T08:00:00Z"),
    },
    {
      ...named,
      group: "GenerateContentInputTokensPerModelPerMinute-FreeTier/gemini-2.5-pro",
      unit: "input_tokens",
      limit: 125_000,
      windowMs: 60_000,
      resetsAt: NOW + 34_400,
    },
    { group: "GenerateRequestsPerMinutePerProject", remainingRatio: 0, unit: "requests", windowMs: 60_000, resetsAt: NOW + 34_400 },
    { group: "OfNoWindow", remainingRatio: 0, unit: "requests", resetsAt: NOW + 34_400 },
  ]);
});

test.each([
  ["2026-11-20T07:59:59Z", "2026-11-20T08:00:00Z"],
  ["2026-11-20T08:00:00Z", "2026-11-21T08:00:00Z"],
  ["2026-07-01T12:00:00.500Z", "2026-07-02T07:00:00Z"],
  // Days of 23 and of 25 hours.
  ["2026-03-08T09:00:00Z", "2026-03-09T07:00:00Z"],
  ["2026-11-01T08:00:00Z", "2026-11-02T08:00:00Z"],
])("at %s a day's quota is back at %s", (now, expected) => {
  const found = spent([{ "@type": FAILURE, violations: [{ quotaId: "RequestsPerDay" }] }], "m", 429, Date.parse(now));
  expect(found?.[0]?.resetsAt).toBe(Date.parse(expected));
});

test("what names no quota, or is no refusal for want of one, says nothing of quotas", () => {
  const perDay = { "@type": FAILURE, violations: [{ quotaId: "RequestsPerDay" }] };
  expect(spent([perDay], "m", 403)).toEqual([]);
  expect(spent([{ "@type": RETRY, retryDelay: "3s" }])).toEqual([]);
  expect(spent([{ "@type": INFO, reason: "RATE_LIMIT_EXCEEDED", metadata: { quotaResetDelay: "2s" } }])).toEqual([]);
  expect(rowOf(key).faultQuotas?.(429, {}, "<html>", NOW, "m")).toEqual([]);
  expect(spent([{ "@type": FAILURE, violations: { quotaId: "RequestsPerDay" } }])).toEqual([]);
});
