/**
 * Sends the call to a provider and brings the answer back. Failover to another credential happens only here, and only before the first byte
 * has gone to the client.
 */
import type { Answer } from "../../core/answer.ts";
import type { Call } from "../../core/call.ts";
import type { Context, Services } from "../../core/context.ts";
import type { Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Step } from "../../core/step.ts";
import { isPromise } from "../../core/time.ts";
import type { RetryBudget } from "../../resilience/retry-budget.ts";
import { requestHeaders } from "../../upstream/headers.ts";
import { providerRow } from "../../upstream/providers.ts";
import type { OutgoingRequest, Transport } from "../../upstream/transport.ts";
import { Attempt, type AttemptSettings, type Failure } from "./attempt.ts";

export interface ProxyOptions extends AttemptSettings {
  /** Of the guard that this step belongs to. */
  readonly services: Services;
  readonly transport: Transport;
  readonly retryBudget: RetryBudget;
  /** Attempts after the first. */
  readonly maxRetries: number;
}

/** Answers the call, or refuses with the last failure. */
export function proxyStep(options: ProxyOptions): Step {
  const { transport, retryBudget, maxRetries } = options;

  /** The request as this credential's provider wants it. */
  function outgoing(ctx: Context, call: Call, lease: Lease): OutgoingRequest {
    const { credential } = lease;
    const row = providerRow(credential.provider);
    const body = options.dialectOf(call).rewrite(call, {
      model: lease.model,
      includeUsage: call.stream,
      // The legacy completions know only the older field.
      capField: call.operation === "chat" ? row.capField : "max_tokens",
      ...(ctx.outputCap === undefined ? {} : { outputCap: ctx.outputCap }),
    });
    const path = credential.basePath + row.paths[call.operation];
    const { origin, allowPrivate, proxyUrl } = credential;
    return { origin, path, method: "POST", headers: requestHeaders(ctx.headers, row, credential, body.length), body, allowPrivate, proxyUrl };
  }

  async function attempt(ctx: Context, call: Call, lease: Lease): Promise<Answer | Failure> {
    ctx.lease = lease;
    ctx.attempts += 1;
    const written = ctx.services.recorder.intent(ctx, lease);
    if (written !== undefined && isPromise(written)) {
      try {
        await written;
      } catch (error) {
        lease.release({ kind: "abandoned" });
        throw error;
      }
    }
    if (ctx.gone) {
      lease.release({ kind: "abandoned" });
      throw clientGone();
    }
    const current = new Attempt(options, ctx, call, lease);
    return current.send((handler) => transport.send(outgoing(ctx, call, lease), handler));
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
      // Only a retry that can be made is paid for.
      if (last && !retryBudget.take()) {
        lease.release({ kind: "abandoned" });
        break;
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

const clientGone = (): GuardError => new GuardError("upstream_unreachable", "the client left before the request was sent");
