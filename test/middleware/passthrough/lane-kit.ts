import express, { type Express } from "express";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";
import type { Context, Services } from "../../../src/core/context.ts";
import type { Credential } from "../../../src/core/credential.ts";
import type { LedgerRow } from "../../../src/core/ledger.ts";
import { Secret } from "../../../src/core/secret.ts";
import { sequence } from "../../../src/core/step.ts";
import type { Amounts, Store } from "../../../src/core/store.ts";
import type { OpenOptions } from "../../../src/http/open.ts";
import { holds } from "../../../src/limits/holds.ts";
import type { LimitDefinition } from "../../../src/limits/limit.ts";
import { planner } from "../../../src/limits/plan.ts";
import { limitRegistry } from "../../../src/limits/registry.ts";
import { authStep, type AuthMode, type ClientKey } from "../../../src/middleware/auth.ts";
import { budgetsStep } from "../../../src/middleware/budgets.ts";
import { passthroughCosts } from "../../../src/middleware/passthrough/costs.ts";
import { passthroughLane, type LaneOptions, type PassthroughLane } from "../../../src/middleware/passthrough/lane.ts";
import { lanePaths } from "../../../src/middleware/passthrough/operations.ts";
import { passthroughHandler, type PassthroughHandler } from "../../../src/middleware/passthrough/passthrough.ts";
import { scopesStep } from "../../../src/middleware/scopes.ts";
import { recorder } from "../../../src/recorder.ts";
import { memoryStore } from "../../../src/stores/memory.ts";
import type { TestClock } from "../../../src/testing/clock.ts";
import { undiciTransport } from "../../../src/upstream/transport.ts";
import { kit, type Kit } from "../../core/context-kit.ts";
import { credential, offersOf, poolKit, type PoolKit } from "../../pool/pool-kit.ts";
import type { ModelEntry } from "../../../src/pool/offers.ts";
import { scriptedProvider, type ScriptedProvider } from "./provider-kit.ts";

export const ALICE = "qg-lane-key-of-alice-01";
export const BOB = "qg-lane-key-of-bob-0002";
/** May use some models only. */
export const CAROL = "qg-lane-key-of-carol-03";
export const MASTER = "qg-lane-master-key-0004";
export const PROVIDER_KEY = "sk-provider-secret-canary";

const key = (name: string, secret: string, more: Partial<ClientKey> = {}): ClientKey => ({
  name,
  key: new Secret(secret),
  scopes: { user: name },
  models: null,
  expiresAt: null,
  mayAssertScopes: false,
  ...more,
});

const KEYS: AuthMode = {
  kind: "keys",
  masterKey: new Secret(MASTER),
  keys: [key("alice", ALICE), key("bob", BOB), key("carol", CAROL, { models: ["gpt-image-*", "fast"] })],
  pepper: null,
};

export const limit = (more: Partial<LimitDefinition> & Pick<LimitDefinition, "unit">): LimitDefinition => ({
  name: `user-${more.unit}`,
  scope: ["user"],
  kind: more.unit === "concurrent" ? { concurrency: { limit: 1 } } : { bucket: { capacity: 1_000, refillPerSec: 0 } },
  mode: "enforce",
  onStoreError: "deny",
  overrides: {},
  whenShort: "refuse",
  estimate: "ceiling",
  ...more,
});

export interface LaneKitOptions {
  readonly auth?: AuthMode;
  readonly limits?: readonly LimitDefinition[];
  readonly costs?: Readonly<Record<string, Amounts>>;
  readonly credentials?: (provider: ScriptedProvider) => readonly Credential[];
  readonly models?: readonly ModelEntry[];
  readonly aliases?: Record<string, string>;
  readonly paths?: readonly string[] | "default";
  readonly others?: boolean;
  readonly isPart?: boolean;
  /** Builds the host around the handler; default: an Express app with it at `/llm`. */
  readonly host?: (handler: PassthroughHandler) => Express;
  readonly services?: Partial<Services>;
  readonly bodyLimit?: number;
  readonly lane?: Partial<LaneOptions>;
}

export interface LaneKit extends Kit {
  readonly provider: ScriptedProvider;
  readonly store: Store;
  readonly pool: PoolKit;
  readonly lane: PassthroughLane;
  readonly handler: PassthroughHandler;
  readonly server: Server;
  readonly url: string;
  readonly port: number;
  readonly opened: Context[];
  /** Rows of requests that are over, newest first. */
  rows(): Promise<readonly LedgerRow[]>;
  /** Resolves once all requests are over. */
  idle(): Promise<void>;
  /** What a user's limit has left. */
  left(name: string, user?: string): Promise<number>;
  call(method: string, path: string, init?: CallInit): Promise<Response>;
}

export interface CallInit {
  readonly key?: string | null;
  readonly headers?: Record<string, string>;
  readonly json?: unknown;
  readonly body?: RequestInit["body"];
  readonly signal?: AbortSignal;
}

/** A gateway that only has the lane, with real auth, budgets, pool and store, in front of a scripted provider. */
export async function laneKit(options: LaneKitOptions = {}): Promise<LaneKit> {
  const provider = await scriptedProvider();
  const base = kit(options.services);
  const { clock, logger } = base;
  const store = memoryStore({ clock });
  const services: Services = { ...base.services, recorder: recorder(store.ledger, null, () => {}), ...options.services };
  const credentials = options.credentials?.(provider) ?? [credential("main", { origin: provider.url, apiKey: new Secret(PROVIDER_KEY) })];
  const offers = offersOf(credentials, options.models, options.aliases);
  const pool = poolKit(offers);
  const keeper = holds({ clock, logger, ttlMs: 300_000 });
  const registry = limitRegistry({ records: store.records, clock, logger });
  for (const each of options.limits ?? []) registry.add(each);
  const paths = lanePaths(options.paths ?? "default", options.others ?? false);
  const transport = undiciTransport({ connectTimeoutMs: 1_000, clock });
  const lane = passthroughLane({
    services,
    pool: pool.pool,
    records: store.records,
    credentials,
    resolve: offers.resolve,
    transport,
    paths,
    bodyLimit: options.bodyLimit ?? 1_000_000,
    connectTimeoutMs: 1_000,
    idleTimeoutMs: 60_000,
    requestTimeoutMs: 300_000,
    ...options.lane,
  });
  const opened: Context[] = [];
  let ids = 0;
  const opening: OpenOptions = {
    services,
    nextId: () => `id-${(ids += 1)}`,
    bodyLimit: options.bodyLimit ?? 1_000_000,
    onOpen(ctx) {
      opened.push(ctx);
      ctx.after((over) => services.recorder.close(over));
    },
  };
  const budgets = budgetsStep({
    planner: planner({ registry, requiredByDefault: false }),
    resolve: offers.resolve,
    store: store.limits,
    local: store.limits,
    nodes: () => 1,
    outageMs: () => 0,
    holds: keeper,
    calls: null,
    route: passthroughCosts({ costs: options.costs ?? {}, amounts: (_ctx, amounts) => amounts }),
    watch: { held: ignore, refused: ignore, wouldRefuse: ignore, storeFailed: ignore, ended: ignore, settled: ignore },
  });
  const scopes = scopesStep({ headers: { org: "x-org-id", user: "x-user-id" }, trustHeaders: false, of: null });
  const chain = sequence(authStep(options.auth ?? KEYS), scopes, budgets);
  const handler = passthroughHandler({ opening, chain, lane: () => lane, paths, isPart: options.isPart ?? false });
  const app = options.host?.(handler) ?? mounted(handler);
  const server = createServer(app);
  server.on("upgrade", handler.upgrade);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => {
      server.close(resolve);
    });
    lane.close();
    await transport.close();
  });
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const idle = async (): Promise<void> => {
    while (opened.some((ctx) => !ctx.closed)) await new Promise(setImmediate);
    await keeper.flush();
  };
  return {
    ...base,
    services,
    provider,
    store,
    pool,
    lane,
    handler,
    server,
    url,
    port,
    opened,
    idle,
    async rows() {
      await idle();
      await store.ledger.flush();
      return store.ledger.list({});
    },
    async left(name, user = "alice") {
      await idle();
      const found = registry.get(name);
      if (!found) throw new Error(`there is no limit ${name}`);
      const rule = await found.rule(user, { scopes: { user }, principal: undefined, req: undefined as never }, clock.now());
      if (!rule) throw new Error(`${name} is unlimited`);
      const [standing] = await store.limits.peek([{ key: found.key([user]), rule }]);
      return standing?.available ?? Number.NaN;
    },
    call(method, path, { key: presented = ALICE, headers = {}, json: object, body, signal } = {}) {
      const sent = object === undefined ? body : JSON.stringify(object);
      return fetch(`${url}/llm${path}`, {
        method,
        headers: {
          ...(presented === null ? {} : { authorization: `Bearer ${presented}` }),
          ...(object === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
        ...(sent === undefined ? {} : { body: sent }),
        ...(signal ? { signal } : {}),
      });
    },
  };
}

function mounted(handler: PassthroughHandler): Express {
  const app = express();
  app.use("/llm", handler);
  app.use((_req, res) => void res.status(418).end("host"));
  return app;
}

const ignore = (): void => undefined;

/** Moves the clock once a real turn of the loop has passed, until something has happened. */
export async function advanceUntil(clock: TestClock, stepMs: number, happened: () => boolean): Promise<void> {
  while (!happened()) {
    clock.advance(stepMs);
    await new Promise(setImmediate);
  }
}
