/**
 * Sends the call to a provider and brings the answer back. Failover to another credential happens only here, and only before the first byte
 * has gone to the client.
 */
import type { Answer } from "../../core/answer.ts";
import type { Call } from "../../core/call.ts";
import type { Context, Services } from "../../core/context.ts";
import { NEVER_SENT, type Credential, type Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Step } from "../../core/step.ts";
import { isPromise } from "../../core/time.ts";
import { backoff } from "../../resilience/backoff.ts";
import type { RetryBudget } from "../../resilience/retry-budget.ts";
import { requestHeaders } from "../../upstream/headers.ts";
import { rowOf, upstreamPath } from "../../upstream/providers.ts";
import { senderOf } from "../../upstream/sender.ts";
import type { OutgoingRequest, Transport } from "../../upstream/transport.ts";
import { Attempt, type AttemptSettings, type Failure } from "./attempt.ts";

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
  const pause = backoff(options.random ?? Math.random);

  /** The request as this credential's provider wants it. */
  function outgoing(ctx: Context, call: Call, lease: Lease, credential: Credential): OutgoingRequest {
    const row = rowOf(credential);
    const body = options.dialectOf(call).rewrite(call, {
      model: lease.model,
      includeUsage: call.stream,
      // The legacy completions know only the older field.
      capField: call.operation === "chat" ? row.capField : "max_tokens",
      ...(ctx.outputCap === undefined ? {} : { outputCap: ctx.outputCap }),
    });
    const path = upstreamPath(credential, row.paths[call.operation] as string);
    const { origin, allowPrivate, proxyUrl } = credential;
    return { origin, path, method: "POST", headers: requestHeaders(ctx.headers, row, credential, body.length), body, allowPrivate, proxyUrl };
  }

  async function attempt(ctx: Context, call: Call, lease: Lease): Promise<Answer | Failure> {
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
    const current = new Attempt(options, ctx, call, lease);
    return current.send((handler) => sender.send(lease.credential, (credential) => outgoing(ctx, call, lease, credential), handler));
  }

  return async function proxy(ctx) {
    const pending = ctx.call();
    const call = isPromise(pending) ? await pending : pending;
    ctx.services = options.services;
    if (!ctx.choice) throw new Error("proxy needs a credentials step before it");
    retryBudget.request();
    let last: Failure | undefined;
    for (let tries = 0; tries <= maxRetries; tries += 1) {
      const next = ctx.choice.next();
      const lease = isPromise(next) ? await next : next;
      if (!lease) break;
      if (last) {
        // Only a retry that can be made is paid for, and waited for.
        if (!retryBudget.take()) {
          lease.release(NEVER_SENT);
          break;
        }
        await pause(ctx);
      }
      const result = await attempt(ctx, call, lease);
      if (!("error" in result)) return result;
      last = result;
      if (!result.retryable || ctx.gone) break;
    }
    if (!last) throw new GuardError("no_credential", "no credential can serve this request now", { param: "model" });
    if (last.answer) return last.answer;
    throw last.error;
  };
}

/** Gives the lease back, because the client left or must go before anything was sent. Returns what to say to it. */
function neverSent(ctx: Context, lease: Lease): GuardError {
  lease.release(NEVER_SENT);
  let error = new GuardError("upstream_unreachable", "the client left before the request was sent");
  ctx.onGone((reason) => (error = reason ?? error));
  ctx.onGone(undefined);
  return error;
}
