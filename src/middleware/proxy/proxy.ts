/**
 * Sends the call to a provider and brings the answer back. Failover to another credential happens only here, and only before the first byte
 * has gone to the client.
 */
import type { Answer } from "../../core/answer.ts";
import type { Call } from "../../core/call.ts";
import type { Context, Services } from "../../core/context.ts";
import { NEVER_SENT, type Choice, type Credential, type Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Step } from "../../core/step.ts";
import { isPromise } from "../../core/time.ts";
import { backoff } from "../../resilience/backoff.ts";
import type { RetryBudget } from "../../resilience/retry-budget.ts";
import { requestHeaders } from "../../upstream/headers.ts";
import { rowOf, upstreamPath } from "../../upstream/providers.ts";
import { senderOf } from "../../upstream/sender.ts";
import type { OutgoingRequest, Transport } from "../../upstream/transport.ts";
import { Attempt } from "./attempt.ts";
import type { AttemptSettings, Failure } from "./attempt-settings.ts";
import { estimatedCount, FREE, mayEstimate } from "./token-count.ts";
import { wireFor, type Wire } from "./wire.ts";

export interface ProxyOptions extends AttemptSettings {
  /** Of the guard that this step belongs to. */
  readonly services: Services;
  readonly transport: Transport;
  readonly retryBudget: RetryBudget;
  /** Attempts after the first. */
  readonly maxRetries: number;
  /** From 0 to below 1, for the pause before a retry. Default `Math.random`. */
  readonly random?: () => number;
}

/** Answers the call, or refuses with the last failure. */
export function proxyStep(options: ProxyOptions): Step {
  const { transport, retryBudget, maxRetries } = options;
  const sender = senderOf(transport, options.services.clock);
  /** Counting has limits of its own at providers: they say nothing of those of answers. */
  const counting: AttemptSettings = { ...options, onAnswer: () => undefined };
  const pause = backoff(options.random ?? Math.random);

  /** The request as this credential's provider wants it. */
  function outgoing(ctx: Context, credential: Credential, { path, body, headers }: Wire): OutgoingRequest {
    const { origin, allowPrivate, proxyUrl } = credential;
    return {
      origin,
      path: upstreamPath(credential, path),
      method: "POST",
      headers: withOwn(requestHeaders(ctx.headers, rowOf(credential), credential, body.length), headers),
      body,
      allowPrivate,
      proxyUrl,
    };
  }

  async function attempt(ctx: Context, call: Call, lease: Lease, wire: Wire): Promise<Answer | Failure> {
    if (ctx.gone) throw neverSent(ctx, lease);
    ctx.lease = lease;
    ctx.attempts += 1;
    ctx.fault = undefined;
    try {
      const written = ctx.services.recorder.intent(ctx, lease);
      if (written !== undefined && isPromise(written)) await written;
    } catch (error) {
      lease.release(NEVER_SENT);
      throw error;
    }
    if (ctx.gone) throw neverSent(ctx, lease);
    const current = new Attempt(call.operation === "count_tokens" ? counting : options, ctx, call, lease, wire);
    return current.send((handler) => sender.send(lease.credential, (credential) => outgoing(ctx, credential, wire), handler));
  }

  /** How to speak to the provider; the reason when it cannot be asked this, and the lease has gone back. */
  function wireOr(ctx: Context, call: Call, lease: Lease): Wire | GuardError {
    try {
      return wireFor(options, ctx, call, lease, rowOf(lease.credential));
    } catch (error) {
      lease.release(NEVER_SENT);
      if (GuardError.is(error) && (error.code === "untranslatable" || error.code === "body_invalid")) return error;
      throw error;
    }
  }

  /** The answer, or the last failure. Throws what was refused before anybody was asked. */
  async function tried(ctx: Context, call: Call, choice: Choice): Promise<Answer | Failure> {
    let last: Failure | undefined;
    let unsaid: GuardError | undefined;
    for (let tries = 0; tries <= maxRetries; tries += 1) {
      // The model that was asked for is there and cannot be asked this: that is the request's own fault, and no other model takes it.
      if (unsaid && !last && choice.hadAllOwn?.()) throw unsaid;
      const next = choice.next();
      const lease = isPromise(next) ? await next : next;
      if (!lease) break;
      const wire = wireOr(ctx, call, lease);
      if (GuardError.is(wire)) {
        // Somebody else may be able to say it; nobody was asked, so this was no try.
        unsaid = wire;
        tries -= 1;
        continue;
      }
      if (last) {
        // Only a retry that can be made is paid for, and waited for.
        if (!retryBudget.take()) {
          lease.release(NEVER_SENT);
          break;
        }
        await pause(ctx);
      }
      const result = await attempt(ctx, call, lease, wire);
      if (!("error" in result)) return result;
      last = result;
      if (!result.retryable || ctx.gone) break;
    }
    if (last) return last;
    // Those that can say it may only be busy.
    if (unsaid) throw choice.busy?.() ?? unsaid;
    throw new GuardError("no_credential", "no credential can serve this request now", { param: "model" });
  }

  async function counted(ctx: Context, call: Call, choice: Choice): Promise<Answer | Failure> {
    let result: Answer | Failure;
    try {
      result = await tried(ctx, call, choice);
    } catch (error) {
      if (!GuardError.is(error)) throw error;
      result = { error, retryable: error.status === 429 || error.status === 503, answer: null };
    }
    if (!("error" in result) || ctx.gone || !mayEstimate(result)) return result;
    const answer = estimatedCount(options.dialectOf(call), options.inputTokens(call));
    if (!answer) return result;
    ctx.charged = FREE;
    ctx.fault = undefined;
    return answer;
  }

  return async function proxy(ctx) {
    const pending = ctx.call();
    const call = isPromise(pending) ? await pending : pending;
    ctx.services = options.services;
    if (!ctx.choice) throw new Error("proxy needs a credentials step before it");
    retryBudget.request();
    const result = await (call.operation === "count_tokens" ? counted : tried)(ctx, call, ctx.choice);
    if (!("error" in result)) return result;
    if (result.answer) return result.answer;
    throw result.error;
  };
}

/** Headers that a provider wants with this request, in place of others of their names. */
function withOwn(headers: string[], own: Wire["headers"]): string[] {
  const names = Object.keys(own);
  if (names.length === 0) return headers;
  const kept: string[] = [];
  for (let i = 0; i < headers.length; i += 2) if (own[headers[i] as string] === undefined) kept.push(headers[i] as string, headers[i + 1] as string);
  return [...kept, ...Object.entries(own).flat()];
}

/** Gives the lease back, because the client left or must go before anything was sent. Returns what to say to it. */
function neverSent(ctx: Context, lease: Lease): GuardError {
  lease.release(NEVER_SENT);
  let error = new GuardError("upstream_unreachable", "the client left before the request was sent");
  ctx.onGone((reason) => (error = reason ?? error));
  ctx.onGone(undefined);
  return error;
}
