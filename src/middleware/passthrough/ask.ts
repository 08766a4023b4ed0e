import type { Context } from "../../core/context.ts";
import type { Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import { collected, type ProviderAnswer } from "../../upstream/collected.ts";
import { upstreamPath } from "../../upstream/providers.ts";
import type { Transport } from "../../upstream/transport.ts";

/** A page of a list; more is a fault or an attack. */
const MOST_BYTES = 8 * 1024 * 1024;

export interface Asked {
  readonly credential: Credential;
  /** Below the base URL, with the query. */
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly timeoutMs: number;
}

/** Reads something small from a provider on behalf of a client. Any status is an answer; throws `upstream_*` when there is none, or the client left. */
export function ask(transport: Transport, ctx: Context, { credential, path, headers, timeoutMs }: Asked): Promise<ProviderAnswer> {
  const { origin, allowPrivate, proxyUrl } = credential;
  const request = { origin, path: upstreamPath(credential, path), method: "GET", headers, body: null, allowPrivate, proxyUrl };
  const { answer, giveUp } = collected(transport, ctx.services.clock, request, { timeoutMs, maxBytes: MOST_BYTES });
  ctx.onGone((reason) => giveUp(reason ?? new GuardError("upstream_unreachable", "the client left")));
  return answer.finally(() => ctx.onGone(undefined));
}
