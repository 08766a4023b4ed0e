import type { Credential } from "../core/credential.ts";
import type { Clock } from "../core/time.ts";
import type { ProviderRow } from "../core/provider.ts";
import { collecting, type CollectingLimits, type ProviderAnswer } from "./collected.ts";
import { requestHeaders } from "./headers.ts";
import { rowOf, upstreamPath } from "./providers.ts";
import { senderOf } from "./sender.ts";
import type { OutgoingRequest, Transport } from "./transport.ts";

export interface Question extends CollectingLimits {
  readonly credential: Credential;
  /** Which of the provider's paths. */
  readonly to: keyof ProviderRow["paths"];
  /** Null = GET. */
  readonly body: Buffer | null;
}

/** Asks a provider something of our own (not a client's call) and collects the answer. Throws `upstream_*` when there is none; any status is an answer. */
export function askProvider(transport: Transport, clock: Clock, question: Question): Promise<ProviderAnswer> {
  const { credential, to, body, timeoutMs, maxBytes } = question;
  const row = rowOf(credential);
  const path = upstreamPath(credential, row.paths[to] as string);
  const build = (sent: Credential): OutgoingRequest => {
    const { origin, allowPrivate, proxyUrl } = sent;
    const headers = requestHeaders({}, row, sent, body?.length ?? null);
    return { origin, path, method: body ? "POST" : "GET", headers, body, allowPrivate, proxyUrl };
  };
  return collecting((handler) => senderOf(transport, clock).send(credential, build, handler), clock, { timeoutMs, maxBytes }).answer;
}
