/** Keys of clients that are made at run time: what is kept of them, and who may change it. */
import { ConfigError, GuardError } from "./core/errors.ts";
import type { KeyAdmin, KeyView, MadeKey } from "./core/key-admin.ts";
import type { Logger } from "./core/logger.ts";
import { hint } from "./core/nearest.ts";
import type { Secret } from "./core/secret.ts";
import type { RecordStore } from "./core/store.ts";
import { isPromise, type Clock, type MaybePromise } from "./core/time.ts";
import { keepMark, markedKey } from "./key-mark.ts";
import { apiKeys, prefixOf, type ApiKeys } from "./middleware/auth/api-key.ts";
import { API_KEYS, keyLookup, type FoundKey, type KeyRecord } from "./middleware/auth/key-lookup.ts";
import { asRefusal, keyGrant, overlapMs, type KeyGrant } from "./options/new-key.ts";
import type { Organisations } from "./organisations.ts";

/*
 * Three records: `api-key/<digest>` is what a request is judged by, `api-key-name/<name>` says which digests a name has and is what is listed, `api-key-used/<name>`
 * when it was used. A key works only from the moment at which its name says so, and ends before its name does: what is cut off in between leaves nothing behind that works
 * and that nobody can see.
 */
const NAMES = "api-key-name/";
const USES = "api-key-used/";
/** A year and a month: whoever looks after that wants to know that it was not used. */
const USES_TTL_MS = 395 * 86_400_000;
/** Records are not deleted on a condition: one that is over runs out, unless somebody has taken its place. */
const GONE_TTL_MS = 60_000;

interface NameRecord extends KeyGrant {
  readonly digest: string;
  readonly prefix: string;
  readonly createdAt: number;
  readonly rotatedAt: number | null;
  /** The key before the last rotation, and when it ends. */
  readonly previous: { readonly digest: string; readonly until: number } | null;
  /** `ending`: its digests are being taken out · `gone`: they are, and the name is free. */
  readonly state?: "ending" | "gone";
}

interface Named {
  readonly value: NameRecord;
  readonly version: number;
}

export interface StoredKeys extends KeyAdmin {
  /** Undefined = there is no such key. */
  find(key: string): MaybePromise<FoundKey | undefined>;
  /** The same, without noting that it was used. */
  look(key: string): MaybePromise<FoundKey | undefined>;
  /** @throws ConfigError when a configured key has the name of a stored one. */
  load(): Promise<void>;
  close(): void;
}

export interface StoredKeysParts {
  readonly records: RecordStore;
  /** Throws ConfigError when there is none, and it may not be made. */
  readonly secretKey: (mayMake: boolean) => Secret;
  /** The mark of a secret key that is lost. */
  readonly replaces: string | null;
  /** Of the keys of the configuration. */
  readonly configured: readonly string[];
  readonly declaredScopes: ReadonlySet<string>;
  readonly orgs: Pick<Organisations, "join">;
  /** Throws where nothing may be made. */
  readonly mayMake: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}

export function storedKeys({ records, secretKey, replaces, configured, declaredScopes, orgs, mayMake, clock, logger }: StoredKeysParts): StoredKeys {
  let keys: ApiKeys | null | undefined;
  const lookup = keyLookup({ records, clock, logger, onUse: used });

  /** Nobody waits for it, and it may be lost. */
  function used(name: string, hourMs: number): void {
    const failed = (error: unknown): void => logger.debug({ err: error, key: name }, "when a key was used could not be written");
    try {
      const written = records.put(USES + name, { at: hourMs }, { ttlMs: USES_TTL_MS });
      if (isPromise(written)) written.catch(failed);
    } catch (error) {
      failed(error);
    }
  }

  const theirs = async (): Promise<ApiKeys> => apiKeys(await markedKey({ records, secretKey, replaces, logger }));

  /** Looked at each time: other processes may have another secret key, and what they cannot check must not be made. */
  async function toMake(): Promise<ApiKeys> {
    mayMake();
    try {
      if ((await listed()).length > 0) return (keys = await theirs());
      const secret = secretKey(true);
      await keepMark(records, secret);
      return (keys = apiKeys(secret));
    } catch (error) {
      throw asRefusal(error);
    }
  }

  /** Where there is no secret key nobody has made a key either. */
  function toFind(): ApiKeys | null {
    if (keys !== undefined) return keys;
    try {
      return (keys = apiKeys(secretKey(true)));
    } catch (error) {
      logger.warn({ err: error }, "a client presents a key that was made at run time, and without a secret key none of them can be known");
      return (keys = null);
    }
  }

  const digestIn = (made: ApiKeys, key: string): string => made.digestOf(key) as string;

  /** Whatever stands under a name. */
  async function at(name: string): Promise<Named | undefined> {
    const found = KEY_NAME.test(name) ? await records.get(NAMES + name) : undefined;
    return found && { value: found.value as NameRecord, version: found.version };
  }

  async function existing(name: string): Promise<Named> {
    const found = await at(name);
    if (found && found.value.state === undefined) return found;
    if (found?.value.state === "ending") throw crossed(name);
    if (configured.includes(name)) throw new GuardError("not_found", `the key ${name} is one of the configuration; change it there`);
    const names = (await listed()).map((each) => each.name);
    throw new GuardError("not_found", `there is no key ${name.slice(0, 64)}${hint(name, names)}`);
  }

  const listed = (): Promise<readonly NameRecord[]> => namesIn(records);

  /** Puts the digest, then the name; takes the digest out again when the name cannot be had. */
  async function publish(
    digest: string,
    record: NameRecord,
    condition: { readonly ifAbsent: true } | { readonly ifVersion: number },
  ): Promise<boolean> {
    await records.put(API_KEYS + digest, keyRecord(record, record.expiresAt));
    let isTaken = true;
    try {
      isTaken = (await records.put(NAMES + record.name, record, condition)) === undefined;
      return !isTaken;
    } finally {
      if (isTaken) await Promise.resolve(records.delete(API_KEYS + digest)).catch(() => {});
    }
  }

  async function create(grant: KeyGrant): Promise<MadeKey> {
    const made = await toMake();
    if (configured.includes(grant.name)) throw taken(`${grant.name} is the name of a key of the configuration`);
    if (grant.scopes.org !== undefined) await orgs.join(grant.scopes.org);
    const key = made.make();
    const digest = digestIn(made, key);
    const record: NameRecord = { ...grant, digest, prefix: prefixOf(key), createdAt: clock.now(), rotatedAt: null, previous: null };
    const found = await at(grant.name);
    const condition = found?.value.state === "gone" ? { ifVersion: found.version } : ({ ifAbsent: true } as const);
    if (!(await publish(digest, record, condition))) throw taken(`there is a key ${grant.name} already; rotate it, or revoke it first`);
    logger.info({ key: grant.name, org: grant.scopes.org ?? null }, "a key was made");
    return { key, view: viewOf(record, null, clock.now()) };
  }

  async function rotate(name: string, overlap: number): Promise<MadeKey> {
    const made = await toMake();
    const { value: before, version } = await existing(name);
    const old = await endAllButTheLast(before, overlap);
    const key = made.make();
    const digest = digestIn(made, key);
    const previous = old !== null && overlap > 0 ? { digest: old, until: clock.now() + overlap } : null;
    const record: NameRecord = { ...before, digest, prefix: prefixOf(key), rotatedAt: clock.now(), previous };
    if (!(await publish(digest, record, { ifVersion: version }))) {
      throw crossed(name);
    }
    logger.info({ key: name, overlapMs: overlap }, "a key was rotated");
    return { key, view: viewOf(record, null, clock.now()) };
  }

  /** Gives the newest key that works its end, and ends what is older. Returns its digest; null = none works. */
  async function endAllButTheLast(name: NameRecord, overlap: number): Promise<string | null> {
    let last: string | null = null;
    for (const digest of [name.digest, name.previous?.digest]) {
      if (digest === undefined) continue;
      const record = await records.get(API_KEYS + digest);
      if (record === undefined) continue;
      if (last !== null || overlap === 0) await records.delete(API_KEYS + digest);
      else {
        const until = Math.min(clock.now() + overlap, name.expiresAt ?? Infinity);
        await records.put(API_KEYS + digest, keyRecord(name, until), { ttlMs: overlap, ifVersion: record.version });
      }
      last ??= digest;
    }
    return last;
  }

  /** From the first step on nobody else may give the name a key: what is ended then is all that it has. */
  async function revoke(name: string): Promise<boolean> {
    const found = await at(name);
    if (!found || found.value.state === "gone") {
      if (configured.includes(name)) throw new GuardError("forbidden", `the key ${name} is one of the configuration; take it out there`);
      return false;
    }
    const { value, version } = found;
    const ending = await records.put(NAMES + name, { ...value, state: "ending" } satisfies NameRecord, { ifVersion: version });
    if (ending === undefined) throw crossed(name);
    for (const digest of [value.digest, value.previous?.digest]) if (digest !== undefined) await records.delete(API_KEYS + digest);
    await records.put(NAMES + name, { ...value, state: "gone" } satisfies NameRecord, { ifVersion: ending, ttlMs: GONE_TTL_MS });
    await records.delete(USES + name);
    logger.warn({ key: name }, "a key was revoked");
    return true;
  }

  function keyFor(key: string, isUse: boolean): MaybePromise<FoundKey | undefined> {
    const digest = toFind()?.digestOf(key);
    return digest ? lookup.find(digest, isUse) : undefined;
  }

  return {
    create: async (key) => create(keyGrant(key, declaredScopes, clock.now())),
    async list() {
      const [names, uses] = await Promise.all([listed(), records.list(USES)]);
      const usedAt = new Map(uses.map(({ key, value }) => [key.slice(USES.length), (value as { at: number }).at]));
      return names.map((each) => viewOf(each, usedAt.get(each.name) ?? null, clock.now()));
    },
    rotate: async (name, options = {}) => rotate(name, overlapMs(options)),
    revoke,
    find: (key) => keyFor(key, true),
    look: (key) => keyFor(key, false),
    async load() {
      // Without their secret key all of them would be called wrong: that is a fault to be mended before anybody is refused.
      if ((await listed()).length > 0) keys = await theirs();
      const found = await Promise.all(configured.map(at));
      const both = configured.filter((_, i) => found[i] !== undefined && found[i].value.state !== "gone");
      if (both.length > 0)
        throw new ConfigError(both.map((name) => `keys: ${name} is also the name of a key that was made at run time; rename it here`));
    },
    close: () => lookup.close(),
  };
}

async function namesIn(records: RecordStore): Promise<readonly NameRecord[]> {
  return (await records.list(NAMES)).map(({ value }) => value as NameRecord).filter(({ state }) => state !== "gone");
}

/** How many there are. */
export const countStoredKeys = async (records: RecordStore): Promise<number> => (await namesIn(records)).length;

const KEY_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const crossed = (name: string): GuardError =>
  new GuardError("overloaded", `the key ${name} was changed by somebody else at the same time; look at it and try again`, { retryAfterMs: 1_000 });

const taken = (why: string): GuardError => new GuardError("body_invalid", `name: ${why}`, { param: "name" });

const keyRecord = ({ name, scopes, models, mayAssertScopes }: KeyGrant, expiresAt: number | null): KeyRecord => ({
  name,
  scopes,
  models,
  mayAssertScopes,
  expiresAt,
});

function viewOf(
  { name, prefix, scopes, models, mayAssertScopes, createdAt, rotatedAt, expiresAt, previous }: NameRecord,
  lastUsedAt: number | null,
  now: number,
): KeyView {
  const previousUntil = previous && previous.until > now ? previous.until : null;
  return { name, prefix, org: scopes.org ?? null, scopes, models, mayAssertScopes, createdAt, rotatedAt, expiresAt, lastUsedAt, previousUntil };
}
