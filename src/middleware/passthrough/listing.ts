/**
 * Lists of files and batches. The provider lists what all tenants have in its account, so its pages are walked until those things are found that belong to
 * who asks. Where a tenant has things at several credentials, they follow one another.
 */
import type { Answer } from "../../core/answer.ts";
import type { Context } from "../../core/context.ts";
import type { AttemptOutcome, Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import type { ProviderAnswer } from "../../upstream/collected.ts";
import type { Transport } from "../../upstream/transport.ts";
import { parameter } from "./address.ts";
import { ask } from "./ask.ts";
import { sentHeaders } from "./headers.ts";
import type { Resource } from "./operations.ts";
import { notThere, type Ownership, type Tenant } from "./ownership.ts";
import { refusedAnswer } from "./refused.ts";

/** As many as a provider gives at once. */
const PAGE_ITEMS: Readonly<Record<Resource, number>> = { files: 1_000, batches: 100 };
/** What a client gets when it names no limit, and the most that it gets. */
const LIMITS: Readonly<Record<Resource, { readonly usual: number; readonly most: number }>> = {
  files: { usual: 1_000, most: 1_000 },
  batches: { usual: 20, most: 100 },
};
/** Behind so many pages the search ends. */
const MOST_PAGES = 50;

export type Fields = Readonly<Record<string, unknown>>;

export interface ListingOptions {
  readonly transport: Transport;
  readonly owners: Ownership;
  /** Names of all that may hold something: what the master key sees. */
  readonly credentials: Iterable<string>;
  readonly requestTimeoutMs: number;
  /** A lease of one credential, ready to be sent with. */
  lend(ctx: Context, resource: Resource, credential: string, page: number): Promise<Lease>;
  /** An item that is shown: what else it names belongs to the same owner. */
  seen(resource: Resource, item: Fields, credential: string, owner: string): Promise<void>;
}

export interface ListQuestion {
  readonly ctx: Context;
  readonly tenant: Tenant;
  readonly resource: Resource;
  readonly query: string;
}

/** A list that is being put together. */
interface Walk extends ListQuestion {
  readonly limit: number;
  /** Whether there is another place to look at, should this one know nothing of such things. */
  readonly isTolerant: boolean;
  readonly found: Fields[];
  pages: number;
  /** There was more, and it was not looked at. */
  isCut: boolean;
}

/** One place where something may be. */
interface Place {
  readonly credential: string;
  /** Null = everything there. */
  readonly ids: ReadonlySet<string> | null;
}

interface Page {
  readonly items: readonly Fields[];
  readonly hasMore: boolean;
}

/** Answers as the provider would, had it only this tenant. */
export function listing(options: ListingOptions): (question: ListQuestion) => Promise<Answer> {
  const { transport, owners, credentials, requestTimeoutMs } = options;

  async function placesOf({ tenant, resource }: ListQuestion): Promise<readonly Place[]> {
    if (tenant.seesAll) return Array.from(credentials, (credential) => ({ credential, ids: null }));
    const belongings = await owners.belongings(tenant.name, resource);
    return [...credentials].flatMap((credential) => {
      const ids = belongings.get(credential);
      return ids ? [{ credential, ids }] : [];
    });
  }

  /** Where to go on behind a cursor. */
  async function startOf(places: readonly Place[], { tenant, resource }: ListQuestion, cursor: string | null): Promise<number> {
    if (cursor === null) return 0;
    const holder = await owners.find(tenant, { resource, id: cursor });
    const at = places.findIndex(({ credential }) => credential === holder);
    if (at < 0 && !tenant.seesAll) throw notThere();
    return Math.max(at, 0);
  }

  /** One page; an Answer = the provider refused and that is what the client gets; null = it has no such things. */
  async function read(walk: Walk, credential: string, after: string | null): Promise<Page | Answer | null> {
    const { ctx, resource } = walk;
    const { clock, recorder } = ctx.services;
    const lease = await options.lend(ctx, resource, credential, walk.pages);
    walk.pages += 1;
    const finish = (outcome: AttemptOutcome, status: number | null, error: GuardError | null): void => {
      lease.release(outcome);
      recorder.attempt(ctx, lease, status, error?.code ?? null);
    };
    let answered: ProviderAnswer;
    try {
      const headers = sentHeaders({}, lease.credential, null);
      const path = `/v1/${resource}${pageQuery(walk, after)}`;
      answered = await ask(transport, ctx, { credential: lease.credential, path, headers, timeoutMs: requestTimeoutMs });
    } catch (thrown) {
      const error = thrown as GuardError;
      finish(ctx.gone ? { kind: "abandoned", tokens: 0 } : { kind: "failed", error, tokens: null }, null, error);
      throw error;
    }
    const { status, headers, body } = answered;
    if (status >= 200 && status < 300) {
      finish({ kind: "served", status, tokens: 0 }, status, null);
      return pageOf(body);
    }
    const refused = refusedAnswer(lease.credential, status, headers, body, clock.now());
    finish(refused.outcome, status, refused.error);
    if (status === 404 && walk.isTolerant) return null;
    if (refused.answer) return refused.answer;
    throw refused.error;
  }

  /** Adds what belongs to the tenant; returns how many of `ids` were there. */
  async function take({ tenant, resource, found }: Walk, { credential, ids }: Place, items: readonly Fields[]): Promise<number> {
    let met = 0;
    for (const item of items) {
      const id = idOf(item);
      if (id === null || (ids && !ids.has(id))) continue;
      met += 1;
      const owner = await owners.ownerOf(credential, { resource, id });
      if (!tenant.seesAll && owner !== tenant.name) continue;
      if (owner !== null) await options.seen(resource, item, credential, owner);
      found.push(item);
    }
    return met;
  }

  /** Null = done here. */
  async function walkPlace(walk: Walk, place: Place, cursor: string | null): Promise<Answer | null> {
    let after = cursor;
    for (let unmet = place.ids?.size ?? Infinity; unmet > 0 && walk.found.length <= walk.limit;) {
      if (walk.pages >= MOST_PAGES) {
        walk.isCut = true;
        return null;
      }
      const page = await read(walk, place.credential, after);
      if (page === null || "status" in page) return page;
      // A server that knows no cursors begins anew each time: what stands before the cursor was seen.
      const seen = after === null ? 0 : page.items.findIndex((item) => item.id === after) + 1;
      const items = page.items.slice(seen);
      unmet -= await take(walk, place, items);
      after = idOf(items.at(-1));
      if (!page.hasMore || after === null) return null;
    }
    return null;
  }

  return async function list(question) {
    const { query, resource, tenant } = question;
    const limit = limitIn(query, resource);
    const cursor = parameter(query, "after");
    const places = await placesOf(question);
    const start = await startOf(places, question, cursor);
    const walk: Walk = { ...question, limit, isTolerant: tenant.seesAll && places.length > 1, found: [], pages: 0, isCut: false };
    for (let i = start; i < places.length && walk.found.length <= limit && !walk.isCut; i += 1) {
      const refused = await walkPlace(walk, places[i] as Place, i === start ? cursor : null);
      if (refused) return refused;
    }
    if (walk.isCut && walk.found.length === 0) throw tooLong();
    return answerOf(walk.found.slice(0, limit), walk.found.length > limit || walk.isCut);
  };
}

const idOf = (item: Fields | undefined): string | null => (typeof item?.id === "string" ? item.id : null);

function limitIn(query: string, resource: Resource): number {
  const { usual, most } = LIMITS[resource];
  const written = parameter(query, "limit");
  if (written === null) return usual;
  if (!/^[1-9]\d{0,4}$/.test(written)) throw new GuardError("body_invalid", "limit must be a whole number from 1 up", { param: "limit" });
  return Math.min(Number(written), most);
}

const tooLong = (): GuardError =>
  new GuardError("upstream_protocol", "the provider's list is too long to find what is yours in it; ask for single things by their id");

/** The client's own wishes, with our size of a page. */
function pageQuery({ query, resource }: Walk, after: string | null): string {
  const asked = new URLSearchParams({ limit: String(PAGE_ITEMS[resource]) });
  for (const name of ["order", "purpose"]) {
    const value = parameter(query, name);
    if (value !== null) asked.set(name, value);
  }
  if (after !== null) asked.set("after", after);
  return `?${asked.toString()}`;
}

function pageOf(body: Buffer): Page {
  let fields: Fields | null = null;
  try {
    fields = fieldsOf(JSON.parse(body.toString()));
  } catch {
    // What is no JSON is no list either.
  }
  if (!fields || !Array.isArray(fields.data)) throw new GuardError("upstream_protocol", "the provider's list is not a list");
  const items = (fields.data as unknown[]).map(fieldsOf).filter((item) => item !== null);
  return { items, hasMore: fields.has_more === true };
}

function answerOf(data: readonly Fields[], hasMore: boolean): Answer {
  const list = { object: "list", data, first_id: idOf(data[0]), last_id: idOf(data.at(-1)), has_more: hasMore };
  return { status: 200, headers: ["content-type", "application/json"], body: Buffer.from(JSON.stringify(list)) };
}
