/**
 * Calls that a host's SDK sends with its own key and address, and `budgets` around them: nothing of them is changed but what the gateway changes, too (a
 * stream is asked for its usage, an output cap is sent that was held).
 */
import type { Answer } from "./core/answer.ts";
import type { Call } from "./core/call.ts";
import type { Context } from "./core/context.ts";
import type { Credential, Lease } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import type { Step } from "./core/step.ts";
import type { SdkRequest } from "./http/in-process.ts";
import { operationOf } from "./middleware/passthrough/operations.ts";
import { Attempt } from "./middleware/proxy/attempt.ts";
import type { AttemptSettings } from "./middleware/proxy/attempt-settings.ts";
import { plainWire, type Wire } from "./middleware/proxy/wire.ts";
import { UnreadAnswer } from "./unread-answer.ts";
import { fetchExchange, type Fetch } from "./upstream/fetch-exchange.ts";
import { PROVIDER_IDS, providerRow } from "./upstream/providers.ts";
import type { Exchange, ResponseHandler } from "./upstream/transport.ts";

/** In rows and metrics, where a credential's name would stand. No credential can have it. */
const OWN_KEY = "(own key)";
/** What `guard.sdk()` gives an SDK that demands a key. */
export const PLACEHOLDER_KEY = "in-process";

/** What `fetch` derives itself, and what is between the SDK and us. */
const NOT_SENT = ["host", "connection", "content-length", "transfer-encoding", "x-quotaguard-tag"];
/** True of the bytes on the wire only, which `fetch` has decoded. */
const NOT_PASSED: ReadonlySet<string> = new Set(["content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive"]);

export interface OwnKeyOptions extends AttemptSettings {
  readonly fetch: Fetch;
}

/** The key that an SDK has put into its request; null = none. */
export function keyOf(headers: Headers): string | null {
  const bearer = /^bearer\s+(.*)$/i.exec(headers.get("authorization") ?? "")?.[1]?.trim();
  return bearer ?? headers.get("x-api-key") ?? headers.get("api-key") ?? headers.get("x-goog-api-key");
}

function checkKey({ headers, url }: SdkRequest): void {
  if (keyOf(headers) !== PLACEHOLDER_KEY) return;
  throw new GuardError(
    "no_credential",
    `this guard has no credential for ${url.host}, and the client has no key of its own: add one to \`credentials\`, or give the client yours, as in new OpenAI({ ...guard.sdk(), apiKey })`,
  );
}

/** Where a request goes to, in the shape of the accounts that requests usually go to. */
function leaseFor({ url }: SdkRequest, model: string): Lease {
  const provider = PROVIDER_IDS.find((id) => hostOf(providerRow(id).baseUrl) === url.host) ?? "openai-compatible";
  const credential: Credential = {
    name: OWN_KEY,
    provider,
    apiKey: null,
    origin: url.origin,
    basePath: "",
    models: null,
    isFallback: false,
    priority: 0,
    weight: 1,
    tier: null,
    headers: {},
    allowPrivate: true,
    proxyUrl: null,
    rpm: -1,
    tpm: -1,
    maxConcurrent: -1,
  };
  return { credential, model, name: model, release: () => undefined };
}

const hostOf = (baseUrl: string | null): string | null => (baseUrl === null ? null : new URL(baseUrl).host);

/** Commits the row before anything is sent. */
async function begin(ctx: Context, lease: Lease): Promise<void> {
  ctx.lease = lease;
  ctx.attempts = 1;
  await ctx.services.recorder.intent(ctx, lease);
  if (!ctx.gone) return;
  ctx.charged = { kind: "nothing" };
  throw new GuardError("upstream_unreachable", "the caller left before the request was sent");
}

/** The SDK's own request. */
function initOf({ init, request, method, headers }: SdkRequest, body: RequestInit["body"]): RequestInit {
  const sent = new Headers(headers);
  for (const name of NOT_SENT) sent.delete(name);
  return { ...(request ? { redirect: request.redirect } : {}), ...init, method, headers: sent, body: body ?? null };
}

/** A handler that keeps the answer's head. */
function withHead(handler: ResponseHandler): ResponseHandler & { readonly headers: string[] } {
  const headers: string[] = [];
  return {
    headers,
    head(status, all) {
      for (const [name, value] of Object.entries(all)) {
        // Ours has the plain name.
        if (!NOT_PASSED.has(name)) headers.push(name === "x-request-id" ? "x-upstream-request-id" : name, String(value));
      }
      handler.head(status, all);
    },
    data: (chunk) => handler.data(chunk),
    end: () => handler.end(),
    fail: (error, sent) => handler.fail(error, sent),
  };
}

/** The host's own account answers its own client: all that the provider says may be seen. */
function withHeaders(answer: Answer, provider: readonly string[]): Answer {
  const headers = [...answer.headers];
  for (let i = 0; i < provider.length; i += 2) {
    const name = provider[i] as string;
    if (!answer.headers.some((known, at) => at % 2 === 0 && known === name)) headers.push(name, provider[i + 1] as string);
  }
  return { ...answer, headers };
}

/** Sends a model call once: another try would be the SDK's to make. */
export function ownKeyCall(options: OwnKeyOptions, request: SdkRequest): Step {
  function wireOf(ctx: Context, call: Call, lease: Lease): Wire {
    const dialect = options.dialectOf(call);
    const body = dialect.rewrite(call, {
      includeUsage: call.stream,
      // The legacy completions know only the older field.
      capField: call.operation === "chat" ? providerRow(lease.credential.provider).capField : "max_tokens",
      ...(ctx.outputCap === undefined ? {} : { outputCap: ctx.outputCap }),
    });
    return plainWire(dialect, call, request.url.pathname, body);
  }

  return async function ownKey(ctx) {
    checkKey(request);
    const call = await ctx.call();
    const lease = leaseFor(request, call.model);
    await begin(ctx, lease);
    const wire = wireOf(ctx, call, lease);
    const init = initOf(request, new Uint8Array(wire.body));
    let seen: readonly string[] = [];
    const result = await new Attempt(options, ctx, call, lease, wire).send((handler): Exchange => {
      const kept = withHead(handler);
      seen = kept.headers;
      return fetchExchange(options.fetch, request.url, init, kept);
    });
    if (!("error" in result)) return withHeaders(result, seen);
    if (result.answer) return withHeaders(result.answer, seen);
    throw result.error;
  };
}

/** Sends what is no model call, and passes its answer on as it comes. What it used is charged where the answer says so; what is not billed has no row. */
export function ownKeyOperation(options: OwnKeyOptions & { readonly isBilled: boolean }, request: SdkRequest): Step {
  return async function ownKey(ctx) {
    checkKey(request);
    const { init, method, url } = request;
    const operation = operationOf(method, versionedPath(url));
    const lease = leaseFor(request, operation.name);
    if (options.isBilled) await begin(ctx, lease);
    const answer = new UnreadAnswer(options, ctx, lease, operation);
    const body = init.body ?? request.request?.body;
    return answer.send((handler) => {
      const kept = withHead(handler);
      const exchange = fetchExchange(options.fetch, url, { ...initOf(request, body), ...(body ? { duplex: "half" } : {}) }, kept);
      return { exchange, headers: kept.headers };
    });
  };
}

/** From the last `/v1/` on: a base URL may have a prefix. */
function versionedPath({ pathname }: URL): string {
  const version = pathname.lastIndexOf("/v1/");
  return version < 0 ? `/v1${pathname}` : pathname.slice(version);
}
