import type { Charge, Rule, Unit } from "../core/store.ts";
import type { LimitState } from "./kind.ts";

/** The place of one state in a store in this process, which outlives the states that follow each other there. */
export interface Counter {
  /** The store. */
  readonly keeper: object;
  /** Undefined = the store has dropped it, and begins anew with another counter. */
  state: LimitState | undefined;
}

/**
 * A charge that comes back with every request of the same scopes. The store may note its counter there, to be spared looking up the key each time. The
 * note is private, so that a copy with another key cannot carry it along.
 */
export class PlannedCharge implements Charge {
  readonly key: string;
  readonly rule: Rule;
  readonly unit: Unit;
  readonly amount: number;
  readonly enforce: boolean;
  readonly strict: boolean;
  #counter: Counter | undefined;

  /** `before` is a charge of the same key, whose counter is known perhaps. */
  constructor({ key, rule, unit, amount, enforce, strict = false }: Charge, before?: PlannedCharge) {
    this.key = key;
    this.rule = rule;
    this.unit = unit;
    this.amount = amount;
    this.enforce = enforce;
    this.strict = strict;
    this.#counter = before?.key === key ? before.#counter : undefined;
  }

  /** What the store noted; undefined for any other charge. */
  static counterOf(charge: object): Counter | undefined {
    return charge instanceof PlannedCharge ? charge.#counter : undefined;
  }

  static note(charge: object, counter: Counter): void {
    if (charge instanceof PlannedCharge) charge.#counter = counter;
  }
}
