import { GuardError, type ErrorCode, type GuardErrorDetails } from "../../src/core/errors.ts";
import type { Context, ContextInit } from "../../src/core/context.ts";
import { Secret } from "../../src/core/secret.ts";
import { sequence } from "../../src/core/step.ts";
import { andThen } from "../../src/core/time.ts";
import { authStep, type AuthMode, type ClientKey } from "../../src/middleware/auth.ts";
import { fail2banStep, type Fail2banOptions } from "../../src/middleware/fail2ban.ts";
import { penalties } from "../../src/pool/penalties.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { strikeStore } from "../../src/stores/strikes.ts";
import { contextWith, kit, type Kit } from "../core/context-kit.ts";

export const ALICE = "qg-key-of-alice";
export const BOB = "qg-key-of-bob";
export const MASTER = "sk-master";
export const WRONG = "qg-key-of-nobody-canary";
export const HERE = "203.0.113.7";
export const ELSEWHERE = "198.51.100.9";
export const MINUTE = 60_000;
export const BAN_MS = 15 * MINUTE;
export const PREFIX = "client-ban/";

const clientKey = (name: string, key: string): ClientKey => ({
  name,
  key: new Secret(key),
  scopes: {},
  models: null,
  expiresAt: null,
  mayAssertScopes: false,
});

export const KEYS: AuthMode = { kind: "keys", masterKey: new Secret(MASTER), keys: [clientKey("alice", ALICE), clientKey("bob", BOB)], pepper: null };

export interface Asked {
  readonly address?: ContextInit["address"];
  /** Null = none. */
  readonly key?: string | null;
  /** What comes after auth. */
  readonly behind?: (ctx: Context) => void;
  /** The client hangs up before the answer. */
  readonly leaves?: boolean;
}

export function fail2banKit(more: Partial<Fail2banOptions> = {}, mode: AuthMode = KEYS, from: Kit = kit()) {
  const { clock, logger, services } = from;
  const { events } = services;
  const told: unknown[] = [];
  events.on("ban", (event) => void told.push(event));
  const bans = more.bans ?? penalties({ records: memoryStore({ clock }).records, prefix: PREFIX, clock, logger });
  const fail2ban = fail2banStep({
    maxAttempts: 3,
    windowMs: MINUTE,
    banMs: BAN_MS,
    validKeys: "pass",
    strikes: strikeStore({ clock }),
    bans,
    clock,
    logger,
    events,
    ...more,
  });
  const entry = sequence(fail2ban, authStep(mode));

  /** One request from beginning to end: the refusal, or null when it was served. */
  async function refusal({ address = HERE, key = WRONG, behind, leaves = false }: Asked = {}): Promise<GuardError | null> {
    const ctx = contextWith(services, { address, headers: key === null ? {} : { authorization: `Bearer ${key}` } });
    try {
      await andThen(entry(ctx), () => behind?.(ctx));
    } catch (error) {
      if (!GuardError.is(error)) throw error;
      ctx.failure = error;
    }
    if (leaves) ctx.leave();
    const error = ctx.failure ?? null;
    const status = error?.status ?? (ctx.attempts > 0 ? 400 : 200);
    await ctx.close({ status, code: leaves ? "client_closed" : (error?.code ?? null), error });
    return error;
  }

  const send = async (asked: Asked = {}): Promise<string> => (await refusal(asked))?.code ?? "served";

  async function sendAll(times: number, asked: Asked = {}): Promise<string[]> {
    const codes: string[] = [];
    for (let i = 0; i < times; i += 1) codes.push(await send(asked));
    return codes;
  }

  return { ...from, fail2ban, bans, told, entry, refusal, send, sendAll };
}

export const failing =
  (code: ErrorCode, details: GuardErrorDetails = {}) =>
  (): never => {
    throw new GuardError(code, "as told", details);
  };

/** A mistake of a known key. */
export const mistake = (key: string = ALICE, address: string | null = HERE): Asked => ({ key, address, behind: failing("body_invalid") });

export const wrong = (times: number): string[] => Array<string>(times).fill("unauthenticated");
export const banned = (times: number): string[] => Array<string>(times).fill("banned");
