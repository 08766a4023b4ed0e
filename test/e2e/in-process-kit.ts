import express, { type Express } from "express";
import OpenAI from "openai";
import { createGuard, type GuardOptions, type QuotaGuard, type Store } from "quotaguard";
import { expectConserved, fakeUpstream, recordingStore, type FakeUpstream } from "quotaguard/testing";
import { UPSTREAM_KEY, listen } from "../helpers/app.ts";

export const MODEL = "gpt-4o-mini";
/** The host's, where the guard has no credentials. */
export const OWN_KEY = "sk-own-key-of-the-host";
/** One token in or out is a thousandth of a dollar. */
const PRICE = { inputPerMtok: 1_000, outputPerMtok: 1_000 };

export const DAY = { name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } } as const;
export const RPM = { name: "user-rpm", scope: "user", unit: "requests", window: { limit: 10, per: "hour" } } as const;
export const PLACES = { name: "user-places", scope: "user", unit: "concurrent", concurrency: { limit: 2 } } as const;

export interface Host {
  readonly guard: QuotaGuard;
  readonly upstream: FakeUpstream;
  readonly app: Express;
  readonly url: string;
  /** Of this guard, without scopes of its own: those of the request count. */
  readonly openai: OpenAI;
  /** How a limit stands for alice: used and held. */
  standing(limit: string, scopes?: Readonly<Record<string, string>>): Promise<readonly [used: number, held: number]>;
  /** No request is open any more, and nothing is to be delivered. */
  quiet(): Promise<void>;
  /** {@link Host.quiet}, and nothing was lost or charged twice. */
  conserved(): Promise<void>;
}

const endings: (() => Promise<unknown>)[] = [];

export async function endHosts(): Promise<void> {
  for (const end of endings.splice(0).toReversed()) await end();
}

/** What is closed at the end of the test. */
export const endWith = (end: () => Promise<unknown>): void => void endings.push(end);

export const asked = (content: string, more: object = {}) => ({
  model: MODEL,
  messages: [{ role: "user" as const, content }],
  max_tokens: 20,
  ...more,
});

/** A host app whose requests say by header who asks, with an in-process client. `prepare` mounts its routes. */
export async function host(more: GuardOptions, prepare: (host: Omit<Host, "url">) => void, given?: Store): Promise<Host> {
  const upstream = await fakeUpstream();
  endWith(() => upstream.close());
  const store = recordingStore(given ? { store: given } : {});
  const options: GuardOptions = {
    store,
    models: [{ name: MODEL, price: PRICE }],
    credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: upstream.url }],
    scopes: (req) => ({ user: req.headers["x-user"] as string | undefined }),
    ...more,
  };
  const guard = createGuard(options);
  endWith(() => guard.close());
  await guard.ready();
  const openai = new OpenAI({ apiKey: OWN_KEY, baseURL: `${upstream.url}/v1`, ...guard.sdk() });
  const app = express();
  const quiet = async (): Promise<void> => {
    while (guard.admin.health().openRequests > 0 || guard.admin.health().waitingSettlements > 0) await new Promise(setImmediate);
  };
  const base: Omit<Host, "url"> = {
    guard,
    upstream,
    app,
    openai,
    async standing(limit, scopes = { user: "alice" }) {
      const row = (await guard.remaining(scopes)).find(({ name }) => name === limit);
      return [row?.used ?? -1, row?.held ?? -1];
    },
    quiet,
    async conserved() {
      await quiet();
      await expectConserved({ guard, store, upstreams: [upstream], options });
    },
  };
  prepare(base);
  app.use(guard.errorHandler());
  const listening = await listen(app);
  endWith(() => listening.close());
  return { ...base, url: listening.url };
}

export const post = (url: string, init: RequestInit = {}): Promise<Response> =>
  fetch(url, { method: "POST", headers: { "x-user": "alice" }, ...init });
