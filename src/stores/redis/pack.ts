import {
  UNITS,
  type Amounts,
  type BucketRule,
  type Charge,
  type ExpiredReservation,
  type Peeked,
  type Rule,
  type Shortfall,
  type Standing,
} from "../../core/store.ts";
import { timeTo } from "../../limits/bucket.ts";
import type { LimitState } from "../../limits/kind.ts";
import { ANSWER, VERB } from "./lua/verbs.ts";

/*
 * What goes to the script of the limits and what comes back, in bytes: doubles are exact, and the server reads them several times faster than
 * decimal text. The other half is in `lua/`.
 */

/** A key that an operation touches, without prefix. */
export interface LimitKey {
  readonly key: string;
  /** Holds places (a sorted set), not a text. */
  readonly isPlaces: boolean;
}

export type Operation =
  | {
      readonly verb: "reserve";
      readonly opId: string;
      readonly charges: readonly Charge[];
      readonly ttlMs: number;
      readonly isStrict: boolean;
      readonly meta: string;
    }
  | { readonly verb: "settle"; readonly opId: string; readonly keys: readonly LimitKey[]; readonly actual: Amounts | null }
  | { readonly verb: "extend"; readonly opId: string; readonly keys: readonly LimitKey[]; readonly ttlMs: number }
  | { readonly verb: "lapse" | "expire" | "reported"; readonly opId: string; readonly keys: readonly LimitKey[] }
  | { readonly verb: "peek"; readonly limits: readonly Peeked[] };

/** What the script said to one operation. */
export type Answer =
  | { readonly code: Code<"conflict" | "closed" | "stale" | "rebuilding" | "applied" | "late" | "done" | "unknown" | "yes" | "no"> }
  | { readonly code: Code<"skew">; readonly now: number }
  | {
      readonly code: Code<"allowed" | "limited">;
      readonly replayed: boolean;
      readonly standings: readonly Standing[];
      readonly short: readonly Shortfall[];
    }
  | { readonly code: Code<"standings">; readonly standings: readonly Standing[]; readonly short: readonly Shortfall[] }
  | { readonly code: Code<"needs">; readonly keys: readonly LimitKey[] }
  | { readonly code: Code<"expired">; readonly charges: ExpiredReservation["charges"] }
  | { readonly code: Code<"kind">; readonly index: number; readonly stored: Rule["kind"] }
  | { readonly code: Code<"corrupt">; readonly key: string };

type Code<N extends keyof typeof ANSWER> = (typeof ANSWER)[N];

const KIND_LETTERS: Readonly<Record<Rule["kind"], number>> = { bucket: 98, sliding: 119, calendar: 107, concurrency: 99 };
const KINDS = new Map(Object.entries(KIND_LETTERS).map(([kind, letter]) => [letter, kind as Rule["kind"]]));
const UNIT_NUMBERS = Object.fromEntries(UNITS.map((unit, i) => [unit, i])) as Readonly<Record<Charge["unit"], number>>;

/** Verb, index of the record, size of what follows. */
const OPERATION_BYTES = 7;
/** Letter, flags, unit, index, length, four doubles. */
const CHARGE_BYTES = 39;
const NO_KEYS: readonly LimitKey[] = [];

/** The key of a state is told apart from all other keys of the store, whatever it is. */
export const stateKey = (prefix: string, key: string): string => `${prefix}s:${key}`;

export const keyOf = ({ key, rule }: { readonly key: string; readonly rule: Rule }): LimitKey => ({ key, isPlaces: rule.kind === "concurrency" });

/** Gathers the operations of one call. Keys that several of them touch are sent once. */
export class CallWriter {
  readonly #prefix: string;
  #bytes = Buffer.allocUnsafe(16_384);
  #at = 0;
  #texts: string[] = [];
  #sets: string[] = [];
  readonly #textIndexes = new Map<string, number>();
  readonly #setIndexes = new Map<string, number>();
  readonly #recordIndexes = new Map<string, number>();
  #operations = 0;

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  get keyCount(): number {
    return this.#texts.length + this.#sets.length;
  }

  /** Whether a key of the operation is already there as another type: then it belongs into the next call. */
  clashes(operation: Operation): boolean {
    if (operation.verb === "reserve" || operation.verb === "peek") {
      const charges = operation.verb === "reserve" ? operation.charges : operation.limits;
      return charges.some(({ key, rule }) => this.#isOtherType(key, rule.kind === "concurrency"));
    }
    return operation.keys.some(({ key, isPlaces }) => this.#isOtherType(key, isPlaces));
  }

  #isOtherType(key: string, isPlaces: boolean): boolean {
    if (isPlaces) return this.#textIndexes.has(key);
    return this.#sets.length > 0 && this.#setIndexes.has(key);
  }

  add(operation: Operation): void {
    const start = this.#at;
    this.#reserveBytes(OPERATION_BYTES + 64);
    const { verb } = operation;
    this.#bytes[start] = VERB[verb];
    this.#bytes.writeUInt16BE(verb === "peek" ? 0 : this.#recordIndex(operation.opId), start + 1);
    this.#at = start + OPERATION_BYTES;
    switch (verb) {
      case "reserve": {
        const { charges } = operation;
        this.#at = this.#bytes.writeDoubleBE(operation.ttlMs, this.#at);
        this.#at = this.#bytes.writeUInt16BE(charges.length, this.#at);
        this.#bytes[this.#at] = operation.isStrict ? 1 : 0;
        this.#at += 1;
        for (const charge of charges) {
          const flags = (charge.enforce ? 1 : 0) + (charge.strict === true ? 2 : 0);
          this.#charge(charge.key, charge.rule, flags, UNIT_NUMBERS[charge.unit], charge.amount);
        }
        break;
      }
      case "settle":
        for (const unit of UNITS) this.#at = this.#bytes.writeDoubleBE(operation.actual === null ? 0 : (operation.actual[unit] ?? -1), this.#at);
        break;
      case "extend":
        this.#at = this.#bytes.writeDoubleBE(operation.ttlMs, this.#at);
        break;
      case "peek":
        this.#at = this.#bytes.writeUInt16BE(operation.limits.length, this.#at);
        // The flag says that somebody asks for the amount: a counter in debt has no room for 0 either.
        for (const { key, rule, amount } of operation.limits) this.#charge(key, rule, amount === undefined ? 0 : 1, 0, amount ?? 0);
        break;
      case "lapse":
      case "expire":
      case "reported":
        break;
    }
    this.#bytes.writeUInt32BE(this.#at - start - OPERATION_BYTES, start + 3);
    for (const { key, isPlaces } of "keys" in operation ? operation.keys : NO_KEYS) {
      if (isPlaces) this.#setIndex(key);
      else this.#textIndex(key);
    }
    this.#operations += 1;
  }

  /** The call, and a clean table for the next one. `time` -1 = the server's. */
  take(time: number): { readonly keys: readonly string[]; readonly blob: Buffer } {
    const head = 12;
    const blob = Buffer.allocUnsafe(head + this.#at);
    blob.writeDoubleBE(time, 0);
    blob.writeUInt16BE(this.#texts.length, 8);
    blob.writeUInt16BE(this.#operations, 10);
    this.#bytes.copy(blob, head, 0, this.#at);
    const keys = [`${this.#prefix}m`, `${this.#prefix}x`, ...this.#texts, ...this.#sets];
    this.#at = 0;
    this.#operations = 0;
    this.#texts = [];
    this.#sets = [];
    this.#textIndexes.clear();
    this.#setIndexes.clear();
    this.#recordIndexes.clear();
    return { keys, blob };
  }

  #charge(key: string, rule: Rule, flags: number, unit: number, amount: number): void {
    this.#reserveBytes(CHARGE_BYTES + 16 + 3 * key.length);
    const bytes = this.#bytes;
    const start = this.#at;
    bytes[start] = KIND_LETTERS[rule.kind];
    bytes[start + 1] = flags;
    bytes[start + 2] = unit;
    bytes.writeUInt16BE(rule.kind === "concurrency" ? this.#setIndex(key) : this.#textIndex(key), start + 3);
    bytes.writeDoubleBE(amount, start + 7);
    const length = bytes.write(key, start + CHARGE_BYTES);
    bytes.writeUInt16BE(length, start + 5);
    this.#at = start + CHARGE_BYTES + length;
    let a = 0;
    let b = 0;
    let c = 0;
    switch (rule.kind) {
      case "bucket":
        a = rule.capacity;
        b = rule.n;
        c = rule.d;
        break;
      case "sliding":
        a = rule.limit;
        b = rule.perMs;
        c = rule.cellMs;
        break;
      case "calendar":
        a = rule.limit;
        b = rule.bounds[0];
        c = rule.bounds[1];
        this.#at = bytes.writeDoubleBE(rule.bounds[2], this.#at);
        this.#at = bytes.writeDoubleBE(rule.bounds[3], this.#at);
        break;
      case "concurrency":
        a = rule.limit;
        break;
    }
    bytes.writeDoubleBE(a, start + 15);
    bytes.writeDoubleBE(b, start + 23);
    bytes.writeDoubleBE(c, start + 31);
  }

  /** KEYS are counted from 1; the first two are fixed. */
  #recordIndex(opId: string): number {
    const known = this.#recordIndexes.get(opId);
    if (known !== undefined) return known;
    const index = this.#texts.push(`${this.#prefix}r:${opId}`) + 2;
    this.#recordIndexes.set(opId, index);
    return index;
  }

  #textIndex(key: string): number {
    const known = this.#textIndexes.get(key);
    if (known !== undefined) return known;
    const index = this.#texts.push(stateKey(this.#prefix, key)) + 2;
    this.#textIndexes.set(key, index);
    return index;
  }

  /** Sets come last, so they are counted by themselves. */
  #setIndex(key: string): number {
    const known = this.#setIndexes.get(key);
    if (known !== undefined) return known;
    const index = this.#sets.push(stateKey(this.#prefix, key));
    this.#setIndexes.set(key, index);
    return index;
  }

  #reserveBytes(count: number): void {
    if (this.#at + count <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(2 * this.#bytes.length, this.#at + count));
    this.#bytes.copy(larger, 0, 0, this.#at);
    this.#bytes = larger;
  }
}

/** Reads the reply to a call, one answer for each of its operations in turn. */
export class ReplyReader {
  /** The store's time. */
  readonly now: number;
  /** Whether the meta that was sent is not the one that stands there. */
  readonly isNews: boolean;
  readonly #bytes: Buffer;
  readonly #keys: readonly string[];
  #at = 9;

  constructor(bytes: Buffer, keys: readonly string[]) {
    this.#bytes = bytes;
    this.#keys = keys;
    this.now = bytes.readDoubleBE(0);
    this.isNews = bytes[8] === 1;
  }

  next(operation: Operation): Answer {
    const code = this.#byte() as Answer["code"];
    switch (code) {
      case ANSWER.allowed:
      case ANSWER.limited: {
        const replayed = this.#byte() === 1;
        const charges = operation.verb === "reserve" ? operation.charges : [];
        const standings = this.#standings(charges);
        return { code, replayed, standings, short: this.#shortfalls(charges, standings) };
      }
      case ANSWER.standings: {
        this.#at += 1;
        const limits = operation.verb === "peek" ? operation.limits : [];
        const standings = this.#standings(limits);
        return { code, standings, short: this.#shortfalls(limits, standings) };
      }
      case ANSWER.needs:
        return { code, keys: this.#charges().map(({ key, kind }) => ({ key, isPlaces: kind === KIND_LETTERS.concurrency })) };
      case ANSWER.expired: {
        const charges = this.#charges().map(({ key, unit, amount }) => ({ key, unit: UNITS[unit] as Charge["unit"], amount }));
        const skipped = new Set<number>();
        for (let left = this.#short(); left > 0; left -= 1) skipped.add(this.#short());
        return { code, charges: charges.filter((_, i) => !skipped.has(i)) };
      }
      case ANSWER.kind: {
        const index = this.#short();
        return { code, index, stored: KINDS.get(this.#byte()) as Rule["kind"] };
      }
      case ANSWER.corrupt:
        return { code, key: this.#keys[this.#short() - 1] as string };
      case ANSWER.skew:
        return { code, now: this.now };
      default:
        return { code };
    }
  }

  #standings(limits: readonly { readonly rule: Rule }[]): Standing[] {
    const standings: Standing[] = [];
    for (let left = this.#short(), i = 0; left > 0; left -= 1, i += 1) {
      const available = this.#double();
      const resetMs = this.#double();
      const aheadMs = this.#double();
      const rule = (limits[i] as Charge).rule;
      if (rule.kind === "bucket") standings.push({ available, resetMs: bucketReset(rule, available, resetMs, aheadMs) });
      else standings.push({ available, resetMs: resetMs < 0 ? null : resetMs });
    }
    return standings;
  }

  #shortfalls(charges: readonly Peeked[], standings: readonly Standing[]): Shortfall[] {
    const short: Shortfall[] = [];
    for (let left = this.#short(); left > 0; left -= 1) {
      const index = this.#short();
      const waitMs = this.#double();
      const { amount = 0, rule } = charges[index] as Peeked;
      const tooSmall = amount > (rule.kind === "bucket" ? rule.capacity : rule.limit);
      const { available } = standings[index] as Standing;
      short.push({ index, needed: amount, available, waitMs: waitMs < 0 ? null : waitMs, tooSmall });
    }
    return short;
  }

  /** The charges of a record. */
  #charges(): { readonly kind: number; readonly unit: number; readonly amount: number; readonly key: string }[] {
    const charges = [];
    const count = this.#short();
    for (let i = 0; i < count; i += 1) {
      const start = this.#at;
      const kind = this.#bytes[start] as number;
      const keyAt = start + CHARGE_BYTES;
      const keyEnd = keyAt + this.#bytes.readUInt16BE(start + 5);
      const key = this.#bytes.toString("utf8", keyAt, keyEnd);
      charges.push({ kind, unit: this.#bytes[start + 2] as number, amount: this.#bytes.readDoubleBE(start + 7), key });
      this.#at = keyEnd + (kind === KIND_LETTERS.calendar ? 16 : 0);
    }
    return charges;
  }

  #byte(): number {
    this.#at += 1;
    return this.#bytes[this.#at - 1] as number;
  }

  #short(): number {
    this.#at += 2;
    return this.#bytes.readUInt16BE(this.#at - 2);
  }

  #double(): number {
    this.#at += 8;
    return this.#bytes.readDoubleBE(this.#at - 8);
  }
}

/** Of a bucket the script tells the level, the carry and how far its stamp is ahead. */
function bucketReset({ capacity, n, d }: BucketRule, level: number, carry: number, aheadMs: number): number | null {
  if (level >= capacity) return 0;
  const ms = timeTo({ kind: "bucket", key: "", level, carry, t: 0, capacity, n, d }, capacity);
  return ms === Infinity ? null : ms + aheadMs;
}

/** A state as the server keeps it; see `lua/state`. It says nothing of when its key goes: the next write sets that. */
export function packState(state: LimitState): Buffer {
  switch (state.kind) {
    case "bucket":
      return doubles("b", [0, state.t, state.level, state.carry, state.capacity, state.n, state.d]);
    case "calendar":
      return doubles("k", [0, state.t, state.start, state.end, state.used, state.prevStart, state.prevUsed]);
    case "sliding": {
      const { t, sum, perMs, cellMs, shift, indexes, counts } = state;
      const older = indexes.slice(0, -1).flatMap((index, i) => [index, counts[i] as number]);
      return doubles("w", [0, t, sum, perMs, cellMs, shift, indexes.at(-1) ?? -1, counts.at(-1) ?? 0, ...older]);
    }
    case "concurrency":
      return Buffer.concat([
        Buffer.from("c"),
        ...[...state.holds].flatMap(([opId, expiresAt]) => {
          const name = Buffer.from(opId);
          const head = Buffer.allocUnsafe(10);
          head.writeUInt16BE(name.length, head.writeDoubleBE(expiresAt, 0));
          return [head, name];
        }),
      ]);
  }
}

function doubles(letter: string, figures: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(1 + 8 * figures.length);
  bytes.write(letter, 0, "latin1");
  figures.forEach((figure, i) => bytes.writeDoubleBE(figure, 1 + 8 * i));
  return bytes;
}
