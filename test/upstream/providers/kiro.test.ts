import { expect, test } from "vitest";
import { rowOf } from "../../../src/upstream/providers.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();
const ARN = "arn:aws:codewhisperer:eu-central-1:000000000000:profile/EXAMPLE";
const of = (fields: Readonly<Record<string, unknown>> = {}) => configured({ provider: "kiro", apiKey: "aoa-token", ...fields });
const hosts = (fields: Readonly<Record<string, unknown>>) => [of(fields).origin, ...(rowOf(of(fields)).otherOrigins ?? [])];

test("lives in the region that is said, else in its profile's, else in us-east-1", () => {
  expect(hosts({})).toEqual(["https://q.us-east-1.amazonaws.com", "https://codewhisperer.us-east-1.amazonaws.com"]);
  expect(hosts({ profileArn: ARN })).toEqual(["https://q.eu-central-1.amazonaws.com", "https://codewhisperer.eu-central-1.amazonaws.com"]);
  expect(hosts({ profileArn: ARN, region: "us-gov-west-1" })[0]).toBe("https://q.us-gov-west-1.amazonaws.com");
  expect(of({ baseUrl: upstream.url }).origin).toBe(upstream.url);
  expect(rowOf(of())).toMatchObject({ dialect: "kiro", streamsOnly: true });
  expect(rowOf(of()).models).toContain("kiro-claude-sonnet-4-5");
});

test.each<[Readonly<Record<string, unknown>>, string]>([
  [{ apiKey: null }, "credentials[0].apiKey: is required for the provider kiro"],
  [{ region: "us-east-1.evil.test/" }, "credentials[0].region: expected a region of AWS such as us-east-1"],
  [{ region: "useast1" }, "credentials[0].region: expected a region of AWS such as us-east-1"],
  [{ profileArn: "arn:aws:codewhisperer:evil.test/:000000000000:profile/X" }, "credentials[0].profileArn: expected a profile such as arn:aws:"],
  [{ provider: "openai", region: "us-east-1" }, "credentials[0].region: is nothing that the provider openai takes"],
])("%j is refused", (fields, message) => {
  expect(() => of(fields)).toThrow(message);
});

test("is told the profile, a conversation of this request alone, and who we are", async () => {
  upstream.answers((_seen, res) => res.end());
  const body = { conversationState: { chatTriggerType: "MANUAL" } };
  await asked(upstream, of({ baseUrl: upstream.url, profileArn: ARN }), { body });
  expect(upstream.seen[0]).toMatchObject({
    url: "/generateAssistantResponse",
    body: { conversationState: { chatTriggerType: "MANUAL", conversationId: "req_1" }, profileArn: ARN },
    headers: {
      authorization: "Bearer aoa-token",
      accept: "application/vnd.amazon.eventstream",
      "user-agent": expect.stringMatching(/^quotaguard\//) as string,
    },
  });
  // A login of Builder ID is refused with one.
  await asked(upstream, of({ baseUrl: upstream.url }), { body });
  expect(upstream.seen[1]?.body).not.toHaveProperty("profileArn");
  const names = Object.keys(upstream.seen[1]?.headers ?? {});
  expect(names.filter((name) => name.startsWith("x-") || name.startsWith("amz-"))).toEqual([]);
});

test("the second host is told which of its operations is meant", () => {
  const headersAt = (origin: string): Record<string, string> => {
    const headers: Record<string, string> = {};
    const credential = { ...of(), origin };
    rowOf(credential).authorize(headers, credential);
    return headers;
  };
  const [first, second] = hosts({}) as [string, string];
  expect(headersAt(first)["x-amz-target"]).toBeUndefined();
  expect(headersAt(second)["x-amz-target"]).toBe("AmazonCodeWhispererStreamingService.GenerateAssistantResponse");
});

const DAY_MS = 24 * 60 * 60_000;
test.each<[number, unknown, string, boolean, number | null, true?]>([
  [402, { message: "no more", reason: "OVERAGE" }, "credential", true, null],
  [429, { message: "You have reached the limit.", reason: "MONTHLY_REQUEST_COUNT" }, "credential", true, null],
  [403, { message: "Your User ID is temporarily suspended" }, "credential", true, DAY_MS],
  [403, { message: "no", reason: "TEMPORARILY_SUSPENDED" }, "credential", true, DAY_MS],
  [403, { message: "The bearer token included in the request is invalid." }, "credential", true, null, true],
  [403, { message: "User is not authorized to make this call." }, "credential", false, null],
  [401, { message: "expired" }, "credential", false, null],
  [429, { message: "Too many requests", reason: null }, "capacity", true, 60_000],
  [400, { __type: "com.amazon.coral.availability#ThrottlingException", message: "Too many requests" }, "capacity", true, 60_000],
  [429, { message: "high traffic", reason: "INSUFFICIENT_MODEL_CAPACITY" }, "capacity", false, null],
  [400, { message: "Input is too long.", reason: "CONTENT_LENGTH_EXCEEDS_THRESHOLD" }, "request", false, null],
  [400, { message: "Improperly formed request about a token that was suspended." }, "request", false, null],
  [500, { message: "x" }, "capacity", false, null],
  [503, "", "capacity", false, null],
])("%i %j is a fault of the %s", (status, body, fault, isAccountWide, waitMs, isTokenStale) => {
  expect(judged(of(), status, body)).toEqual({ fault, isAccountWide, waitMs });
  expect(rowOf(of()).classify(status, {}, JSON.stringify(body), 0).isTokenStale).toBe(isTokenStale);
});

test("an exception may be named in a header, and a wait said in another goes first", () => {
  const named = { "x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/com.amazon.coral.availability/" };
  expect(judged(of(), 400, {}, named)).toEqual({ fault: "capacity", isAccountWide: true, waitMs: 60_000 });
  expect(judged(of(), 429, {}, { "retry-after": "5" })).toEqual({ fault: "capacity", isAccountWide: true, waitMs: 5_000 });
});
