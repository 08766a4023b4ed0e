import { createHash, timingSafeEqual } from "node:crypto";
import type { RequestHandler } from "express";
import { GuardError } from "../core/errors.ts";
import type { Secret } from "../core/secret.ts";
import type { Clock } from "../core/time.ts";

/** From the sixth wrong key on an address waits this long. */
const WRONG_KEYS = 5;
const LOCKED_MS = 30 * 60_000;
const MAX_ADDRESSES = 10_000;

interface Tries {
  wrong: number;
  until: number;
}

const digest = (text: string): Buffer => createHash("sha256").update(text).digest();

/** Whether an authorization header carries the key. Constant in time, whatever is sent. */
export function keyMatcher(key: Secret): (authorization: string | undefined) => "right" | "wrong" | "missing" {
  const wanted = digest(key.reveal());
  return (authorization) => {
    const given = /^bearer +(\S+)$/i.exec(authorization ?? "")?.[1];
    if (given === undefined) return "missing";
    return timingSafeEqual(digest(given), wanted) ? "right" : "wrong";
  };
}

export const keyRefused = (): GuardError =>
  new GuardError("unauthenticated", "the management key is missing or wrong; send Authorization: Bearer <management key>", {
    headers: { "www-authenticate": "Bearer" },
  });

/**
 * Admits holders of the management key. Wrong keys are counted by socket address (never by a forwarded header); the table is bounded and forgets the
 * address that was quiet for longest.
 */
export function requireKey(key: Secret, clock: Clock): RequestHandler {
  const match = keyMatcher(key);
  const tries = new Map<string, Tries>();

  function wrong(address: string, known: Tries | undefined, now: number): void {
    tries.delete(address);
    if (tries.size >= MAX_ADDRESSES) tries.delete(tries.keys().next().value as string);
    tries.set(address, { wrong: (known?.wrong ?? 0) + 1, until: now + LOCKED_MS });
  }

  return function managementKey(req, _res, next) {
    const address = req.socket.remoteAddress ?? "";
    const now = clock.monotonic();
    let known = tries.get(address);
    if (known && known.until <= now) {
      tries.delete(address);
      known = undefined;
    }
    if (known && known.wrong >= WRONG_KEYS) {
      throw new GuardError("forbidden", "too many wrong management keys from this address; wait before the next try", {
        retryAfterMs: known.until - now,
      });
    }
    const verdict = match(req.headers.authorization);
    // A request without any key is a mistake, not a guess.
    if (verdict === "wrong") wrong(address, known, now);
    if (verdict !== "right") throw keyRefused();
    tries.delete(address);
    next();
  };
}
