import { inspect } from "node:util";

const REDACTED = "[redacted]";

/**
 * A value that must not reach a log, an error, a metric or an answer. Every implicit conversion (string, JSON, template, inspect) yields
 * `[redacted]`; only {@link Secret.reveal} gives it out, and that call is easy to search for.
 */
export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  [inspect.custom](): string {
    return REDACTED;
  }
}
