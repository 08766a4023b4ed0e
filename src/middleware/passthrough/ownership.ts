/**
 * Whose the files and batches are. All tenants use the same accounts at the providers, so the provider cannot tell them apart: we keep who made what, and
 * what nobody is known to have made is nobody's but the master key's.
 */
import type { Context } from "../../core/context.ts";
import type { Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { RecordStore } from "../../core/store.ts";
import type { Resource } from "./operations.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
/** Longer than any provider keeps what nobody asks for. Renewed on use, at most once a day. */
const TTL_MS = 400 * DAY_MS;

/** `thing` says whose one thing is: the truth. `theirs` lists a tenant's things, so that nobody has to search. */
const THING = "passthrough/thing";
const THEIRS = "passthrough/theirs";

export interface Tenant {
  readonly name: string;
  /** The master key: everything is its own, also what was made past the gateway. */
  readonly seesAll: boolean;
}

export interface Thing {
  readonly resource: Resource;
  readonly id: string;
}

/** Where a tenant's things are: credential -> ids. */
export type Belongings = ReadonlyMap<string, ReadonlySet<string>>;

export interface Ownership {
  /** The name of the credential that holds the thing; null for the master key = nobody knows. Throws `not_found` for everybody it does not belong to. */
  find(tenant: Tenant, thing: Thing): Promise<string | null>;
  /** The one credential that holds all of these; null = none is named, or the master key may try anywhere. Throws as {@link find}, and for two holders. */
  holderOf(tenant: Tenant, things: readonly Thing[]): Promise<string | null>;
  /** Who a thing belongs to; null = nobody is known. */
  ownerOf(credential: string, thing: Thing): Promise<string | null>;
  /** The provider has just made it for this tenant, whatever was called the same before. */
  made(tenant: string, credential: string, thing: Thing): Promise<void>;
  /** Something of this tenant's names it: it is the tenant's too, unless it is known to be somebody's. */
  named(tenant: string, credential: string, thing: Thing): Promise<void>;
  /** The provider has deleted it. */
  gone(credential: string, thing: Thing): Promise<void>;
  /** What may be a tenant's; {@link ownerOf} has the last word. */
  belongings(tenant: string, resource: Resource): Promise<Belongings>;
}

/**
 * The tenant that a request belongs to: its organisation, else the name of its key, else the host's user, else one for all. The kinds are part of the
 * name, so that no user can be called like a key.
 */
export function tenantOf({ principal, scopes }: Context): Tenant {
  const seesAll = principal?.kind === "master";
  if (scopes?.org !== undefined) return { name: `org:${scopes.org}`, seesAll };
  // What the host's own check of a key calls it is a name too; its `host` stands for everybody. A key may be called anything.
  const isNamed = principal && !(principal.kind === "host" && principal.name === "host");
  if (isNamed && !seesAll) return { name: `key:${principal.name}`, seesAll };
  if (scopes?.user !== undefined) return { name: `user:${scopes.user}`, seesAll };
  return { name: seesAll ? "master" : "common", seesAll };
}

interface ThingRecord {
  readonly tenant: string;
  /** Wall clock, ms. */
  readonly at: number;
}

/** One key for one thing, and no two for one: every part is escaped, so a `/` in it ends nothing. */
const part = encodeURIComponent;
const thingKey = (credential: string, { resource, id }: Thing): string => `${THING}/${part(credential)}/${resource}/${part(id)}`;
const theirsPrefix = (tenant: string, resource: Resource): string => `${THEIRS}/${part(tenant)}/${resource}/`;
const theirsKey = (tenant: string, credential: string, { resource, id }: Thing): string =>
  `${theirsPrefix(tenant, resource)}${part(credential)}/${part(id)}`;

/** The same words for what does not exist and for what is somebody else's. */
export const notThere = (): GuardError => new GuardError("not_found", "there is no such file or batch");

/** The names of the credentials whose provider is dialled directly, as they are at each look: what is passed through takes no proxy. */
export function directNames(credentials: Iterable<Credential>): Iterable<string> {
  return {
    *[Symbol.iterator]() {
      for (const { name, proxyUrl } of credentials) if (proxyUrl === null) yield name;
    },
  };
}

export interface OwnershipOptions {
  readonly records: RecordStore;
  /** Names of all that may hold something. */
  readonly credentials: Iterable<string>;
  /** Wall clock, ms. */
  readonly now: () => number;
}

export function ownership({ records, credentials, now }: OwnershipOptions): Ownership {
  async function recordOf(credential: string, thing: Thing): Promise<ThingRecord | null> {
    const found = await records.get(thingKey(credential, thing));
    return (found?.value as ThingRecord | undefined) ?? null;
  }

  /** The truth first: a list without it shows nothing. */
  async function put(tenant: string, credential: string, thing: Thing, ifAbsent: boolean): Promise<void> {
    const value: ThingRecord = { tenant, at: now() };
    const version = await records.put(thingKey(credential, thing), value, { ttlMs: TTL_MS, ifAbsent });
    if (version !== undefined) await records.put(theirsKey(tenant, credential, thing), null, { ttlMs: TTL_MS });
  }

  const owners: Ownership = {
    async holderOf(tenant, things) {
      const holders = new Set<string>();
      for (const thing of things) {
        const holder = await owners.find(tenant, thing);
        if (holder !== null) holders.add(holder);
      }
      if (holders.size > 1) throw new GuardError("body_invalid", "the files of one request are held by different accounts; upload them again");
      return holders.values().next().value ?? null;
    },
    async find(tenant, thing) {
      for (const credential of credentials) {
        const record = await recordOf(credential, thing);
        if (!record || !(tenant.seesAll || record.tenant === tenant.name)) continue;
        if (now() - record.at > DAY_MS) await put(record.tenant, credential, thing, false);
        return credential;
      }
      if (!tenant.seesAll) throw notThere();
      return null;
    },
    async ownerOf(credential, thing) {
      return (await recordOf(credential, thing))?.tenant ?? null;
    },
    made: (tenant, credential, thing) => put(tenant, credential, thing, false),
    named: (tenant, credential, thing) => put(tenant, credential, thing, true),
    async gone(credential, thing) {
      const record = await recordOf(credential, thing);
      await records.delete(thingKey(credential, thing));
      if (record) await records.delete(theirsKey(record.tenant, credential, thing));
    },
    async belongings(tenant, resource) {
      const prefix = theirsPrefix(tenant, resource);
      const found = new Map<string, Set<string>>();
      for (const { key } of await records.list(prefix)) {
        const [credential, id] = key.slice(prefix.length).split("/").map(decodeURIComponent) as [string, string];
        const ids = found.get(credential) ?? new Set();
        found.set(credential, ids.add(id));
      }
      return found;
    },
  };
  return owners;
}
