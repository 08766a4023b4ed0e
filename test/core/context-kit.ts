import type { Call } from "../../src/core/call.ts";
import { Context, type ContextInit, type Pricer, type Services } from "../../src/core/context.ts";
import { GuardError } from "../../src/core/errors.ts";
import { eventEmitter } from "../../src/core/events.ts";
import type { Logger } from "../../src/core/logger.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";

export interface Line {
  readonly level: "debug" | "info" | "warn" | "error";
  readonly fields: Readonly<Record<string, unknown>>;
  readonly message: string;
}

/** A logger that keeps what it was told. */
export function keptLogger(): Logger & { readonly lines: Line[] } {
  const lines: Line[] = [];
  const at =
    (level: Line["level"]) =>
    (fields: object, message: string): void =>
      void lines.push({ level, fields: { ...fields }, message });
  return { lines, debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

export interface Kit {
  readonly clock: TestClock;
  readonly logger: ReturnType<typeof keptLogger>;
  readonly services: Services;
}

const NO_PRICES: Pricer = { cost: () => null, of: () => NO_PRICES };

/** What a guard gives its requests, on a clock that only a test moves; nothing has a price. */
export function kit(more: Partial<Services> = {}): Kit {
  const clock = testClock();
  const logger = keptLogger();
  const services: Services = {
    clock,
    logger,
    events: eventEmitter(logger),
    pricer: NO_PRICES,
    recorder: { intent: () => undefined, attempt: () => undefined, close: () => undefined },
    ...more,
  };
  return { clock, logger, services };
}

export function callOf(model: string, more: Partial<Call> = {}): Call {
  const body = { model, messages: [] };
  const bytes = Buffer.from(JSON.stringify(body));
  return { dialect: "openai", operation: "chat", model, stream: false, maxOutputTokens: null, choices: 1, wantsUsage: false, body, bytes, ...more };
}

export function contextWith(services: Services, more: Partial<ContextInit> = {}): Context {
  const reader = { call: () => callOf("gpt-4o") };
  return new Context({
    id: "id-1",
    requestId: "req-1",
    method: "POST",
    path: "/",
    headers: {},
    services,
    reader,
    carriesCall: false,
    address: null,
    host: {},
    ...more,
  });
}

/** What was thrown, as a GuardError; anything else fails the test with it. */
export function refusalOf(run: () => unknown): GuardError {
  try {
    run();
  } catch (error) {
    if (GuardError.is(error)) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

export async function rejectionOf(promise: Promise<unknown>): Promise<GuardError> {
  const thrown: unknown = await promise.then(
    () => new Error("nothing was refused"),
    (error: unknown) => error,
  );
  if (GuardError.is(thrown)) return thrown;
  throw thrown;
}
