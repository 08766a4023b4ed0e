/**
 * Kiro, Amazon's coding agent, in a wire format of its own; answers come as event streams only. The token of a login stands in `api_key`; who renews it is a
 * plugin's business. Headers that name Kiro's own clients are not sent: who is allowed to, sets them in the credential's `headers`.
 */
import type { AccountFields, AdaptedRequest, Credential, Verdict } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { decodeError, exceptionName } from "../../dialects/kiro/errors.ts";
import { frameCodec } from "../../dialects/kiro/frames.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { bearer } from "./openai.ts";
import { ACCOUNT, CAPACITY, errorFields, startOf, usualVerdict, verdict, type Headers } from "./verdicts.ts";
import { usualWait } from "./waits.ts";

type Fields = Readonly<Record<string, unknown>>;

const DEFAULT_REGION = "us-east-1";
const hostsIn = (region: string) => ({
  baseUrl: `https://q.${region}.amazonaws.com`,
  otherOrigins: [`https://codewhisperer.${region}.amazonaws.com`],
});

/** The second host serves several operations below one path, and is told which. */
const SECOND_HOST = /^https:\/\/codewhisperer\./;
const TARGET = "AmazonCodeWhispererStreamingService.GenerateAssistantResponse";

const SUSPENDED = verdict("credential", true, 24 * 60 * 60_000);
const STALE_TOKEN: Verdict = Object.freeze({ ...ACCOUNT, isTokenStale: true });
const THROTTLED = verdict("capacity", true, 60_000);

function authorize(headers: Record<string, string>, credential: Credential): void {
  bearer(headers, credential);
  headers.accept = "application/vnd.amazon.eventstream";
  if (SECOND_HOST.test(credential.origin)) headers["x-amz-target"] = TARGET;
}

/** No request is tied to another by its conversation's id: who asks is nobody else's business. */
function adapt(body: Fields, { credential: { profileArn }, requestId }: AdaptedRequest): Fields {
  const conversationState = { ...fieldsOf(body.conversationState), conversationId: requestId };
  return { ...body, conversationState, ...(profileArn === undefined ? {} : { profileArn }) };
}

function classify(status: number, headers: Headers, body: Buffer | string): Verdict {
  const fields = errorFields(startOf(body)) ?? {};
  const { message = "", kind = "" } = decodeError(fields) ?? {};
  const isThrottled = status === 429 || exceptionName(headers["x-amzn-errortype"] ?? fields.__type) === "ThrottlingException";
  if (status === 402 || kind?.startsWith("MONTHLY_")) return ACCOUNT;
  if (isThrottled) return kind === "INSUFFICIENT_MODEL_CAPACITY" ? CAPACITY : THROTTLED;
  if (status === 403 && /suspended/i.test(`${kind} ${message}`)) return SUSPENDED;
  if (status === 403 && /\btoken\b/i.test(message)) return STALE_TOKEN;
  return usualVerdict(status, headers, body);
}

export const kiro: ProviderRow = {
  id: "kiro",
  dialect: "kiro",
  ...hostsIn(DEFAULT_REGION),
  paths: { chat: "/generateAssistantResponse" },
  account: { takes: ["region", "profileArn"], needs: [["apiKey"]] },
  of({ region, profileArn }: AccountFields) {
    // With the account, and not with its first answer.
    frameCodec();
    return hostsIn(region ?? profileArn?.split(":")[3] ?? DEFAULT_REGION);
  },
  streamsOnly: true,
  capField: "max_tokens",
  forwardedHeaders: [],
  authorize,
  adapt,
  classify,
  retryAfterMs: usualWait,
  models: [
    "kiro-auto",
    "kiro-claude-opus-4-6",
    "kiro-claude-opus-4-5",
    "kiro-claude-sonnet-4-6",
    "kiro-claude-sonnet-4-5",
    "kiro-claude-sonnet-4",
    "kiro-claude-haiku-4-5",
  ],
};
