/** Where counters, records and rows are kept: `store` and `ledger`. */
import { z } from "zod";
import { Secret } from "../core/secret.ts";
import type { LedgerStore, Store } from "../core/store.ts";
import type { Problem } from "./tree.ts";
import { duration, label, seam, size } from "./values.ts";

/** A server: its URL may hold a password, `place` (host, port and database) does not. */
export interface ServerStore<K extends string> {
  readonly kind: K;
  readonly url: Secret;
  readonly place: string;
}

type Place = { readonly kind: "memory" } | { readonly kind: "sqlite"; readonly path: string };

export type ResolvedStore =
  | Place
  | ServerStore<"redis">
  /** The host's own object: it closes it. */
  | { readonly kind: "given"; readonly store: Store };

/** Where rows are kept while the ledger's database is away. */
export interface ResolvedSpool {
  readonly path: string;
  readonly maxBytes: number;
  readonly maxTimeMs: number;
}

export type ResolvedLedger =
  | Place
  /** Without a spool nothing is served while it is away. */
  | (ServerStore<"postgres"> & { readonly spool: ResolvedSpool | null })
  | { readonly kind: "given"; readonly store: LedgerStore }
  /** The rows are kept by the store itself. */
  | { readonly kind: "store" };

/** What is known of a URL by its scheme; null = nothing of ours. */
type Known = Place | ServerStore<"redis"> | ServerStore<"postgres"> | null;

const SQLITE = /^sqlite:(?:\/\/)?(?=\S)/;
/** SQLAlchemy and others name their driver in the scheme. */
const DRIVER = /^([a-z]+)\+[a-z0-9]+:/i;

const SERVERS = { "redis:": "redis", "rediss:": "redis", "postgres:": "postgres", "postgresql:": "postgres" } as const;
const DEFAULT_PORTS = { redis: 6379, postgres: 5432 } as const;

/** Whether text is the URL of a server, right or wrong. */
export const isServerUrl = (url: string): boolean => /^(?:rediss?|postgres(?:ql)?):/i.test(url.replace(DRIVER, "$1:"));

function known(text: string): Known {
  if (text === "memory") return { kind: "memory" };
  if (SQLITE.test(text)) return { kind: "sqlite", path: text.replace(SQLITE, "") };
  const plain = text.replace(DRIVER, "$1:");
  if (!isServerUrl(plain) || !URL.canParse(plain)) return null;
  const url = new URL(plain);
  const kind = SERVERS[url.protocol as keyof typeof SERVERS];
  if (url.hostname === "") return null;
  const place = `${url.hostname}:${url.port === "" ? DEFAULT_PORTS[kind] : url.port}${url.pathname === "/" ? "" : url.pathname}`;
  return { kind, url: new Secret(plain), place };
}

function urlOption<K extends string>(kind: K, advice: string, otherServer: string) {
  type Wanted = Place | ServerStore<K>;
  return z.union([z.string(), z.instanceof(Secret)], { error: "expected text" }).transform((value, ctx): Wanted => {
    const text = typeof value === "string" ? value : value.reveal();
    const found = known(text);
    if (found && (found.kind === "memory" || found.kind === "sqlite" || found.kind === kind)) return found as Wanted;
    const problem = isServerUrl(text)
      ? `${advice}; ${ENCODED}`
      : text.trim() === ""
        ? `is empty: leave it out, or give it a value; ${advice}`
        : advice;
    ctx.addIssue({ code: "custom", message: found ? otherServer : problem });
    return z.NEVER;
  });
}

const STORE_ADVICE = "expected memory, sqlite:<path> or redis://<host>:<port>, for example sqlite:./data/quotaguard.db";
const LEDGER_ADVICE = "expected memory, sqlite:<path> or postgres://<user>@<host>:<port>/<database>, for example sqlite:./data/quotaguard.db";
/** What makes most URLs unreadable. */
const ENCODED = "in its user and password, characters such as @ : / # % are written percent-encoded";
const DAY_MS = 86_400_000;
/** A request may be settled a day after its hold ran out, and until then its row must be there. */
const MIN_RETENTION_MS = DAY_MS;
const MAX_RETENTION_MS = 36_500 * DAY_MS;

const MOST_NODES = 10_000;

const nodes = () => z.union([z.literal("auto"), z.number().int().min(1).max(MOST_NODES)], { error: "expected auto or a whole number from 1 up" });

/** @default memory */
export const storeOption = () =>
  z.union(
    [
      seam<Store>(
        ["limits", "strikes", "records", "ledger", "ready", "close"],
        "a store: { url }, or what memoryStore(), sqliteStore() or redisStore() return",
      ),
      z.strictObject({
        url: urlOption(
          "redis",
          STORE_ADVICE,
          "Postgres keeps rows, not counters: name it in ledger.url, and here memory, sqlite:<path> or redis://…",
        ).prefault("memory"),
        /** Processes that share the limits while the store is away: each takes its part of them. `auto` = as many as the store counts. */
        nodes: nodes().default("auto"),
      }),
    ],
    { error: "expected { url } or a store object" },
  );

/** 16 TB: no number of ours grows beyond what is exact. */
const MOST_SPOOL_BYTES = 2 ** 44;
/** Where rows wait unless it is said. Relative paths start at the config file's folder, in code at the working folder. */
export const SPOOL_PATH = "./data/spool";

const spoolSchema = z.strictObject({
  /** A folder, made when it is needed. */
  path: label(4_096).default(SPOOL_PATH),
  /** Of all files that wait. Beyond it nothing new is let in. */
  maxBytes: size(MOST_SPOOL_BYTES).default(268_435_456),
  /** How long one outage is bridged. Afterwards nothing new is let in. */
  maxTime: duration(1_000).default(900_000),
});

/** @default the store's own */
export const ledgerOption = () =>
  z.union(
    [
      seam<LedgerStore>(["records", "ledger", "ready", "close"], "a ledger: { url }, or what memoryStore(), sqliteStore() or postgresStore() return"),
      z.strictObject({
        /** @default the store's own */
        url: urlOption(
          "postgres",
          LEDGER_ADVICE,
          "Redis keeps counters, not rows: name it in store.url, and here sqlite:<path> or postgres://…",
        ).optional(),
        /** Keeps rows in a file on this machine while a Postgres is away; `false` = nothing is served then. */
        spool: z.union([z.literal(false), spoolSchema], { error: "expected false or { path, maxBytes, maxTime }" }).optional(),
        /** How long requests have rows of their own; after that they are in the sums of their day. `null` = for good. */
        retention: duration(MIN_RETENTION_MS, MAX_RETENTION_MS).nullable().default(null),
      }),
    ],
    { error: "expected { url } or a store object" },
  );

type ParsedStore = z.output<ReturnType<typeof storeOption>>;
type ParsedLedger = z.output<ReturnType<typeof ledgerOption>>;

/** A store that the host brought along has no `nodes` beside it: it counts them itself, or is not shared. */
export function resolveStore(option: ParsedStore | undefined): { readonly store: ResolvedStore; readonly nodes: number | "auto" } {
  if (option === undefined) return { store: { kind: "memory" }, nodes: "auto" };
  return "url" in option ? { store: option.url, nodes: option.nodes } : { store: { kind: "given", store: option }, nodes: "auto" };
}

export function resolveLedger(option: ParsedLedger | undefined): { readonly ledger: ResolvedLedger; readonly retentionMs: number | null } {
  if (option === undefined) return { ledger: { kind: "store" }, retentionMs: null };
  if ("records" in option) return { ledger: { kind: "given", store: option }, retentionMs: null };
  const { url = { kind: "store" }, spool, retention } = option;
  const ledger = url.kind === "postgres" ? { ...url, spool: spool === false ? null : spoolOf(spool ?? spoolSchema.parse({})) } : url;
  return { ledger, retentionMs: retention };
}

const spoolOf = ({ path, maxBytes, maxTime }: z.output<typeof spoolSchema>): ResolvedSpool => ({ path, maxBytes, maxTimeMs: maxTime });

/** A database in this process or in a file of this machine cannot be away by itself. */
export function spoolProblems(ledger: unknown): Problem[] {
  const { url, spool } = (typeof ledger === "object" && ledger !== null ? ledger : {}) as { readonly url?: unknown; readonly spool?: unknown };
  const text = url instanceof Secret ? url.reveal() : url;
  if (spool === undefined || spool === false || typeof text !== "string" || isServerUrl(text)) return [];
  return [
    {
      path: ["ledger", "spool"],
      message: "is for a postgres:// ledger, which may be away; memory and sqlite: are here as long as this machine is, so take it out",
    },
  ];
}

/** Where something is kept, as people may see it: without a password. */
export function placeOf(kept: ResolvedStore | ResolvedLedger): string {
  switch (kept.kind) {
    case "given":
      return `an object (${kept.store.name})`;
    case "sqlite":
      return `sqlite:${kept.path}`;
    case "redis":
    case "postgres":
      return `${kept.kind}://${kept.place}`;
    case "store":
      return "the store's own";
    case "memory":
      return "memory";
  }
}
