/**
 * Keeps out clients that misbehave again and again: addresses that try wrong keys, and keys whose requests keep being wrong by their own fault.
 * What is not theirs never counts: budgets, credentials, providers, and anything while our own store is away.
 */
import type { ClientBanView } from "../core/admin.ts";
import type { ClientGate, Context, Principal } from "../core/context.ts";
import { GuardError, type ErrorCode } from "../core/errors.ts";
import type { Events } from "../core/events.ts";
import type { Logger } from "../core/logger.ts";
import type { Step } from "../core/step.ts";
import type { StrikeStore } from "../core/store.ts";
import type { Clock, MaybePromise } from "../core/time.ts";
import { addressKey } from "../http/address.ts";
import type { Penalties, Penalty } from "../pool/penalties.ts";

const WRONG_KEY: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["unauthenticated", "auth_conflict"]);

/** Mistakes that a client can see and mend. By our code: the same status may be somebody else's doing. */
const MISTAKES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "forbidden",
  "model_not_allowed",
  "scope_invalid",
  "body_invalid",
  "body_too_large",
  "unsupported_encoding",
  "model_not_found",
  "not_found",
  "method_not_allowed",
  "untranslatable",
]);

/** What providers answer to a request that is wrong in itself. */
const REFUSED_AS_WRONG: ReadonlySet<number> = new Set([400, 413, 422]);

/** Names of everybody that has none: behind the host's own auth, and in this process. A ban of them would be a ban of all. */
const ANONYMOUS: ReadonlySet<string> = new Set(["host", "in-process"]);

export interface Fail2banOptions {
  /** Strikes within `windowMs` that end in a ban. */
  readonly maxAttempts: number;
  readonly windowMs: number;
  /** Null = until a person lifts it. */
  readonly banMs: number | null;
  /**
   * What happens to a right key from a banned address. `pass`: it is served, so that one guest cannot lock out everybody behind the same router;
   * sound as long as keys are too long to guess. `refuse`: nothing is read from that address, not even a key.
   */
  readonly validKeys: "pass" | "refuse";
  readonly strikes: StrikeStore;
  /** Whoever is banned, by client. Its records bring the bans over a restart. */
  readonly bans: Penalties;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: Events;
  /** Called with each new ban. */
  readonly onBan?: (client: string) => void;
}

/** The step, and what operators do about its bans. A client is `ip:<address, or /56 of IPv6>` or `key:<name>`. */
export interface Fail2banStep extends Step {
  bans(): readonly ClientBanView[];
  /** False = it was not banned. */
  lift(client: string): boolean;
}

const addressClient = (address: string): string => `ip:${addressKey(address)}`;

/** Null for the master key, which mends what is wrong, and for whoever has no name. */
function keyClient({ kind, name }: Principal): string | null {
  return kind === "master" || (kind === "host" && ANONYMOUS.has(name)) ? null : `key:${name}`;
}

/** Whose mistake a request was; null = nobody's that could be banned. */
function culprit(ctx: Context): string | null {
  const { failure, principal } = ctx;
  // Whoever does not wait for the answer has tried the key all the same.
  if (failure && WRONG_KEY.has(failure.code)) return ctx.address === null ? null : addressClient(ctx.address);
  if (!principal || ctx.gone || !isMistake(ctx, failure)) return null;
  return keyClient(principal);
}

/** A provider's refusal is a failure of ours where we dressed it, and a plain answer where it passed as it was. */
function isMistake(ctx: Context, failure: GuardError | undefined): boolean {
  if (failure && failure.code !== "upstream_refused") return MISTAKES.has(failure.code);
  return ctx.fault === "request" && REFUSED_AS_WRONG.has(statusOf(ctx));
}

const statusOf = (ctx: Context): number => ctx.failure?.status ?? ctx.outcome?.status ?? 0;

function refusalOf(client: string, { until }: Penalty, nowMs: number): GuardError {
  const why = client.startsWith("ip:")
    ? "too many wrong keys came from this address; check which of your programs uses an old or foreign key"
    : "this key sent too many requests that can never succeed; mend the program that uses it";
  const then = until === null ? "ask the operator to lift the ban" : "come back when the ban is over, or ask the operator to lift it";
  return new GuardError("banned", `${why}, then ${then}`, until === null ? {} : { retryAfterMs: Math.max(1, until - nowMs) });
}

/** Bans clients after `maxAttempts` strikes within `windowMs`. Stands before `auth`, which asks `ctx.gate`; throws `banned`. */
export function fail2banStep(options: Fail2banOptions): Fail2banStep {
  const { maxAttempts, windowMs, banMs, validKeys, strikes, bans, clock, logger, events, onBan } = options;
  let isCounting = true;

  function banOf(client: string): Penalty | undefined {
    return bans.isEmpty ? undefined : bans.get(client, clock.now());
  }

  function admit(principal: Principal): void {
    if (bans.isEmpty) return;
    const client = keyClient(principal);
    const ban = client === null ? undefined : banOf(client);
    if (ban) throw refusalOf(client as string, ban, clock.now());
  }

  /** The gate of all whose address is not banned. */
  const openGate: ClientGate = { admit, refusal: (error) => error };

  /** A ban that began while the request waited is seen too, because the key's is looked up at the gate. */
  function gateOf(ctx: Context): ClientGate {
    // Asked in time: once the connection is gone, nobody knows its address any more.
    const { address } = ctx;
    if (bans.isEmpty || address === null) return openGate;
    const client = addressClient(address);
    const ban = banOf(client);
    if (!ban) return openGate;
    const refusal = (): GuardError => refusalOf(client, ban, clock.now());
    if (validKeys === "refuse") throw refusal();
    return { admit, refusal };
  }

  function began(client: string, code: number): MaybePromise<void> {
    const since = clock.now();
    const until = banMs === null ? null : since + banMs;
    // When it is full of longer bans there is no room for this one.
    if (!bans.set(client, { code, since, until })) return undefined;
    logger.warn({ client, code, until }, "a client is banned");
    events.emit("ban", { credential: null, model: null, client, code, until });
    onBan?.(client);
    // Whoever comes back begins anew.
    return strikes.clear(strikeKey(client));
  }

  async function strike(client: string, code: number): Promise<void> {
    try {
      const count = await strikes.strike(strikeKey(client), windowMs);
      // Of requests that ended together only the first one bans.
      if (count >= maxAttempts && !banOf(client)) await began(client, code);
      if (!isCounting) logger.info({}, "wrong keys and mistakes of clients are counted again");
      isCounting = true;
    } catch (error) {
      if (isCounting) logger.warn({ err: error }, "wrong keys and mistakes of clients cannot be counted now; known bans hold");
      isCounting = false;
    }
  }

  function judge(ctx: Context): MaybePromise<void> {
    const client = culprit(ctx);
    // While it is banned nothing counts and nothing prolongs.
    return client === null || banOf(client) ? undefined : strike(client, statusOf(ctx));
  }

  function fail2ban(ctx: Context): void {
    // Two guards in one app, or the part and the handler of one: the first one's counts.
    if (ctx.gate) return;
    ctx.gate = gateOf(ctx);
    ctx.after(judge);
  }

  return Object.assign(fail2ban, {
    bans: (): readonly ClientBanView[] => bans.all(clock.now()).map(([client, { code, since, until }]) => ({ client, code, since, until })),
    lift(client: string): boolean {
      return bans.get(client, clock.now()) !== undefined && bans.delete(client);
    },
  });
}

const strikeKey = (client: string): string => `client/${client}`;
