/**
 * The parts alone. Each takes the options of the guard that it would belong to, and is a guard of its own: use `createGuard()` when
 * parts should share a store, prices or events.
 */
import { createGuard } from "./guard.ts";
import type { Handler } from "./http/handler.ts";
import type { RouteBudgetOptions } from "./options/budgets.ts";
import type { GuardOptions } from "./options.ts";

/** Who asks: sets the principal or answers 401. */
export const auth = (options: GuardOptions): Handler => createGuard(options).auth();

/** Bans addresses that try wrong keys and keys that keep asking for nonsense. Stands before `auth`. */
export const fail2ban = (options: GuardOptions = {}): Handler => createGuard(options).fail2ban();

/** Whose budgets a request touches. */
export const scopes = (options: GuardOptions): Handler => createGuard(options).scopes();

/** Reserves before, settles after: limits of its own, with whatever else the guard behind them needs. */
export function budgets(options: GuardOptions & Pick<RouteBudgetOptions, "cost" | "skip" | "headers" | "onRefused">): Handler {
  const { cost, skip, headers, onRefused, ...rest } = options;
  return createGuard(rest).budgets({ cost, skip, headers, onRefused }, true);
}

/** Answers a model call that comes again with the same `Idempotency-Key` from what the first one got. */
export const idempotency = (options: GuardOptions = {}): Handler => createGuard(options).idempotency();

/** Chooses credentials for the proxy behind it. */
export const credentials = (options: GuardOptions): Handler => createGuard(options).credentials();

/** Sends the call upstream with what `credentials` chose. */
export const proxy = (options: GuardOptions = {}): Handler => createGuard(options).proxy();

/** Answers `GET /v1/models`. */
export const models = (options: GuardOptions): Handler => createGuard(options).models();

/** Streams what is not understood (files, audio, images, batches) to a provider and back. */
export const passthrough = (options: GuardOptions): Handler => createGuard(options).passthrough();
