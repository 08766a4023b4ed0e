/** Tokens that credentials are exchanged for: asked for when they are needed, kept until shortly before their end, never asked for twice at one time. */
import type { Credential, IssuedToken, TokenExchange, TokenRequest } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Secret } from "../core/secret.ts";
import type { Clock, MaybePromise } from "../core/time.ts";
import { fieldsOf } from "../dialects/usage.ts";
import { collected } from "./collected.ts";
import { checkBaseUrl } from "./egress.ts";
import type { Transport } from "./transport.ts";

/** How long before its end a token is replaced; of a short life, half of it. */
const AHEAD_MS = 5 * 60_000;
const DEADLINE_MS = 15_000;
const MAX_ANSWER_BYTES = 256 * 1024;
/** No token is believed to live longer. */
const MOST_LIFE_MS = 24 * 60 * 60_000;

/** A credential with its token in the place of the key. */
export interface Sendable {
  readonly credential: Credential;
  /** Whether the token was there already, so that a provider that refuses it may want a newer one. */
  readonly isKept: boolean;
}

export interface AccessTokens {
  /** Rejects with `upstream_*`; a {@link TokenRefused} when the account itself is not accepted. */
  of(credential: Credential, exchange: TokenExchange): MaybePromise<Sendable>;
  /** A provider has refused this token: it is not given out again. */
  forget(sendable: Sendable): void;
}

/** Whoever issues tokens does not accept the credential. */
export class TokenRefused extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`no access token was issued (status ${status})`);
    this.name = "TokenRefused";
    this.status = status;
  }
}

interface Kept {
  sendable: Sendable | null;
  /** Wall clock, ms. */
  expiresAt: number;
  /** Wall clock, ms: from then on it is replaced. */
  staleAt: number;
  asking: Promise<Sendable> | null;
}

/** The last token of each credential, for whoever must not let it out. Credentials are replaced, not changed. */
const issued = new WeakMap<Credential, Secret>();

export const issuedToken = (credential: Credential): Secret | undefined => issued.get(credential);

export function accessTokens(transport: Transport, clock: Clock): AccessTokens {
  const kept = new WeakMap<Credential, Kept>();
  const keptBySendable = new WeakMap<Credential, Kept>();

  async function ask(credential: Credential, request: TokenRequest, exchange: TokenExchange): Promise<{ token: IssuedToken; at: number }> {
    const { origin } = checkBaseUrl(request.url.replace(/\?.*$/, ""));
    const { pathname, search } = new URL(request.url);
    const { allowPrivate, proxyUrl } = credential;
    const headers = { "accept-encoding": "identity", accept: "application/json", ...request.headers };
    const body = request.body === null ? null : Buffer.from(request.body);
    const outgoing = { origin, path: pathname + search, method: request.method, headers, body, allowPrivate, proxyUrl };
    const at = clock.now();
    const answer = await collected(transport, clock, outgoing, { timeoutMs: DEADLINE_MS, maxBytes: MAX_ANSWER_BYTES }).answer;
    const { status } = answer;
    if (status >= 400 && status < 500 && status !== 408 && status !== 429) throw new TokenRefused(status);
    const fields = status >= 200 && status < 300 ? parsed(answer.body) : null;
    const token = fields && exchange.read(fields, credential, at);
    if (!token || token.token.reveal() === "" || token.expiresAt <= at) {
      throw new GuardError("upstream_protocol", `no access token was issued: the answer (status ${status}) holds none that is still good`);
    }
    return { token, at };
  }

  async function renewed(credential: Credential, entry: Kept, request: TokenRequest, exchange: TokenExchange): Promise<Sendable> {
    try {
      const { token, at } = await ask(credential, request, exchange);
      const lifeMs = Math.min(token.expiresAt - at, MOST_LIFE_MS);
      const place = token.origin === undefined ? {} : checkBaseUrl(token.origin);
      entry.expiresAt = at + lifeMs;
      entry.staleAt = entry.expiresAt - Math.min(AHEAD_MS, lifeMs / 2);
      const sendable = { credential: Object.freeze({ ...credential, ...place, apiKey: token.token }), isKept: false };
      entry.sendable = sendable;
      issued.set(credential, token.token);
      keptBySendable.set(sendable.credential, entry);
      return sendable;
    } catch (error) {
      // What is there is good for a while still.
      if (entry.sendable && clock.now() < entry.expiresAt && !(error instanceof TokenRefused)) return { ...entry.sendable, isKept: true };
      throw error;
    } finally {
      entry.asking = null;
    }
  }

  return {
    of(credential, exchange) {
      let entry = kept.get(credential);
      if (!entry) kept.set(credential, (entry = { sendable: null, expiresAt: 0, staleAt: 0, asking: null }));
      const now = clock.now();
      if (entry.sendable && now < entry.staleAt) return { ...entry.sendable, isKept: true };
      if (entry.asking) return entry.asking;
      const request = exchange.request(credential, now);
      if (!request) return { credential, isKept: false };
      return (entry.asking = renewed(credential, entry, request, exchange));
    },
    forget({ credential }) {
      const entry = keptBySendable.get(credential);
      if (entry?.sendable?.credential === credential) entry.sendable = null;
    },
  };
}

function parsed(bytes: Buffer): Readonly<Record<string, unknown>> | null {
  try {
    return fieldsOf(JSON.parse(bytes.toString()));
  } catch {
    return null;
  }
}
