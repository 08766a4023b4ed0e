import { GuardError } from "../core/errors.ts";
import type { Rule } from "../core/store.ts";
import { LATE_MS, SPARE_MS, TOMBSTONE_MS, type Keyed, type LimitBackend, type Reservation } from "../limits/backend.ts";
import { decodeReservation, decodeState, encodeReservation, encodeState } from "../limits/codec.ts";
import { exactKinds } from "../limits/engine.ts";
import type { Kind, LimitState } from "../limits/kind.ts";

/** What a key holds from now on. */
export interface StateWrite {
  readonly key: string;
  /** Null = nothing. */
  readonly value: string | null;
  /** When the store may forget the value, ms from now; null = never. Keeping it longer does no harm. */
  readonly ttlMs: number | null;
}

/** Open holds are listed by their expiry in this many lists, so that two requests seldom meet in one. */
const LISTS = 64;

/** The longest that one list may become, about 50 kB. Together 64,000 requests may be open. */
const MOST_IN_LIST = 1000;

export const stateKey = (key: string): string => `state/${key}`;
export const holdKey = (opId: string): string => `hold/${opId}`;
export const openKey = (opId: string): string => OPEN_KEYS[listOf(opId)] as string;
export const OPEN_KEYS: readonly string[] = Array.from({ length: LISTS }, (_, i) => `open/${i}`);

function listOf(opId: string): number {
  let hash = 0;
  for (let i = 0; i < opId.length; i += 1) hash = (Math.imul(hash, 31) + opId.charCodeAt(i)) | 0;
  return (hash >>> 0) % LISTS;
}

/** The running transaction has not read these keys: it is to be repeated with them. */
export class Unloaded extends Error {
  readonly keys: readonly string[];

  constructor(keys: readonly string[]) {
    super(`not read: ${keys.join(", ")}`);
    this.keys = keys;
  }
}

/** `held` and `expired` tell when the hold runs out, `closed` how long the tombstone stands. */
const RECORD = /^(held|expired|closed) (\d+) (.*)$/s;

/** States and holds of one transaction at a time, as texts that were read before and are written together afterwards. */
export class TextBackend implements LimitBackend {
  #now = 0;
  readonly #texts = new Map<string, string | undefined>();
  readonly #states = new Map<string, LimitState | undefined>();
  readonly #writes = new Map<string, StateWrite>();
  /** The keys of the hold that was found. */
  #known: readonly string[] = [];
  #aim = "";

  /** Forgets the transaction before and begins a new one. */
  begin(keys: readonly string[], texts: readonly (string | undefined)[], nowMs: number): void {
    if (texts.length !== keys.length) throw new Error(`transact() was asked for ${keys.length} keys and read ${texts.length}`);
    if (!Number.isFinite(nowMs)) throw new Error(`transact() must give the store's time in ms, not ${String(nowMs)}`);
    this.#now = Math.floor(nowMs);
    this.#texts.clear();
    this.#states.clear();
    this.#writes.clear();
    this.#known = [];
    for (const [i, key] of keys.entries()) this.#texts.set(key, texts[i] ?? undefined);
  }

  writes(): readonly StateWrite[] {
    return [...this.#writes.values()];
  }

  /** Names the one hold that `overdue` shall look at. */
  aim(opId: string): void {
    this.#aim = opId;
  }

  now(): number {
    return this.#now;
  }

  wall(): number {
    return this.#now;
  }

  state({ key }: Keyed): LimitState | undefined {
    if (this.#states.has(key)) return this.#states.get(key);
    const name = stateKey(key);
    if (!this.#texts.has(name)) throw new Unloaded([name, ...this.#known]);
    const text = this.#texts.get(name);
    const state = text === undefined ? undefined : decodeState(key, text);
    this.#states.set(key, state);
    return state;
  }

  insert(state: LimitState): void {
    this.#states.set(state.key, state);
    this.save(state);
  }

  save(state: LimitState): void {
    const kind: Kind<Rule, LimitState> = exactKinds[state.kind];
    const lapsesAt = kind.lapsesAt(state);
    this.#write(stateKey(state.key), encodeState(state), Number.isSafeInteger(lapsesAt) ? lapsesAt + SPARE_MS : null);
  }

  find(opId: string, now: number): Reservation | "closed" | undefined {
    const found = this.#record(opId);
    if (found === undefined) return undefined;
    if (found.closedUntil !== undefined) return now < found.closedUntil ? "closed" : undefined;
    if (now >= found.reservation.expiresAt + LATE_MS) return undefined;
    this.#known = found.reservation.charges.map(({ key }) => stateKey(key));
    return found.reservation;
  }

  open(opId: string, reservation: Reservation): void {
    this.#hold(opId, reservation);
    this.#list(opId, reservation.expiresAt);
  }

  update(opId: string, reservation: Reservation): void {
    this.#hold(opId, reservation);
    this.#list(opId, reservation.expired ? null : reservation.expiresAt);
  }

  close(opId: string, now: number): void {
    const until = now + TOMBSTONE_MS;
    this.#write(holdKey(opId), `closed ${until} `, until);
    this.#list(opId, null);
  }

  /** Of the holds in the lists the ones that are to be looked at, longest overdue first. */
  due(most: number): readonly string[] {
    const due: [opId: string, expiresAt: number][] = [];
    for (const key of OPEN_KEYS) {
      for (const [opId, expiresAt] of this.#entries(key)) {
        const lateFor = this.#now - expiresAt;
        // Too late to be reported, but a clock that is put back would find it again.
        if (lateFor >= 0 && (lateFor < LATE_MS || lateFor >= LATE_MS + SPARE_MS)) due.push([opId, expiresAt]);
      }
    }
    due.sort(([, a], [, b]) => a - b);
    return due.slice(0, most).map(([opId]) => opId);
  }

  overdue(now: number): readonly (readonly [opId: string, reservation: Reservation])[] {
    const opId = this.#aim;
    const found = this.find(opId, now);
    if (typeof found === "object" && !found.expired && now >= found.expiresAt) return [[opId, found]];
    // The list was behind: by another sweeper, or because the store forgot the hold long after its time.
    this.#list(opId, typeof found === "object" && !found.expired ? found.expiresAt : null);
    return [];
  }

  #record(opId: string): { readonly closedUntil: number } | { readonly closedUntil?: undefined; readonly reservation: Reservation } | undefined {
    const text = this.#texts.get(holdKey(opId));
    if (text === undefined) return undefined;
    const [, state, until, body] = RECORD.exec(text) ?? [];
    if (until === undefined || body === undefined) throw new SyntaxError(`the record of hold ${opId} cannot be read`);
    if (state === "closed") return { closedUntil: Number(until) };
    return { reservation: decodeReservation(body, Number(until), state === "expired") };
  }

  #hold(opId: string, reservation: Reservation): void {
    const { expired, expiresAt } = reservation;
    const text = `${expired ? "expired" : "held"} ${expiresAt} ${encodeReservation(reservation)}`;
    this.#write(holdKey(opId), text, expiresAt + LATE_MS + SPARE_MS);
  }

  #entries(key: string): [opId: string, expiresAt: number][] {
    const text = this.#texts.get(key);
    return text === undefined ? [] : Object.entries(JSON.parse(text) as Record<string, number>);
  }

  /** Lists an open hold, or takes it out (null). */
  #list(opId: string, expiresAt: number | null): void {
    const key = openKey(opId);
    const entries = new Map(this.#entries(key));
    if (expiresAt === null ? !entries.delete(opId) : entries.get(opId) === expiresAt) return;
    if (expiresAt !== null) entries.set(opId, expiresAt);
    if (entries.size > MOST_IN_LIST)
      throw new GuardError("store_unavailable", `more than ${LISTS * MOST_IN_LIST} requests are open: try again later`);
    const last = Math.max(...entries.values());
    this.#write(key, entries.size === 0 ? null : JSON.stringify(Object.fromEntries(entries)), last + LATE_MS + SPARE_MS);
  }

  #write(key: string, value: string | null, until: number | null): void {
    this.#writes.set(key, { key, value, ttlMs: value === null || until === null ? null : Math.max(1, until - this.#now) });
  }
}
