/** What may be wrong with a guard's surroundings, and what to do about it: one table for the log, for process warnings and for the documentation. */
import { ConfigError, GuardError } from "./errors.ts";
import type { Logger } from "./logger.ts";

interface Diagnostic {
  readonly wrong: string;
  readonly help: string;
}

/** By the code of the log line or warning. Docs list the same. */
export const DIAGNOSTICS = {
  QG_START_FAILED: {
    wrong: "the guard could not start; every request is answered with 503 until it is fixed and restarted",
    help: "mend what the message names, then restart; `await guard.ready()` at the start of your app rejects with the same reason",
  },
  QG_BODY_PARSED: {
    wrong: "a body parser reads model calls before the guard does: its size limit counts too, and JSON is written anew",
    help:
      "mount the guard before your body parsers, or keep the bytes in req.rawBody: express.json({ verify: (req, _res, bytes) => { req.rawBody = bytes } }); " +
      "in Nest: NestFactory.create(AppModule, { rawBody: true })",
  },
  QG_BODY_LOST: {
    wrong: "something before the guard has read a request's body and kept nothing of it: the request is refused with 400",
    help: "mount the guard before whatever reads bodies, or keep the bytes in req.rawBody",
  },
  QG_TRUST_PROXY: {
    wrong: 'the app\'s "trust proxy" does not fit the proxies in front of it, so bans would go by the wrong address',
    help: 'app.set("trust proxy", …): the addresses of your proxies ("loopback", "10.0.0.0/8"), or how many there are; never true',
  },
  QG_DOUBLE_CHARGE: {
    wrong: "two guards charge a limit of the same name for one request: the one that saw it first, and another one behind it",
    help: "make one guard with createGuard() and use its parts everywhere; or give the second guard's limit another name if both are meant to count",
  },
  QG_MEMORY_STORE_WORKERS: {
    wrong: "this process is one of several workers, and its store is memory: each worker counts for itself, so budgets are that many times as large",
    help: 'share the counters: sqliteStore("./data/quota.db") for the processes of one machine, redisStore("redis://…") for several machines',
  },
  QG_TWO_COPIES: {
    wrong: "this process has loaded copies of quotaguard whose versions do not fit: they may not understand each other's requests and errors",
    help: "install one version: `npm ls quotaguard` shows who brings which, `npm dedupe` or an override leaves one",
  },
  QG_CONFIG: {
    wrong: "something in the configuration is ignored, or will surprise you later",
    help: "the message names the key; `quotaguard check` lists all of them",
  },
  QG_FALLBACK_CHAIN: {
    wrong: "a fallback chain names what nobody offers: it would be passed over when it is needed",
    help: "mend the name in router.fallback_chains, or add the credential or model; `quotaguard check` lists all of them",
  },
  QG_METRICS_OFF: {
    wrong: "metrics are off, because the package prom-client is not there",
    help: "npm install prom-client, or set monitoring.prometheus_enabled to false",
  },
  QG_PLUGIN_FAILED: {
    wrong: "something that a plugin brought failed: a listener, a timer, a route, a watcher or its end",
    help: "the line names the plugin and has its error; requests of others do not feel it",
  },
  QG_QUOTA_LOGIN: {
    wrong: "a provider does not accept the login of a credential whose quotas it is asked for",
    help: "log in again and give the credential its new token; requests may go on, and what was known of its quotas ends at their resets",
  },
  QG_PRICE_BOOK: {
    wrong: "the bundled price book could not be read: what only it prices has no price",
    help: "install the package's dependencies again, or set prices.book to false and say prices under models[].price, prices.rules or prices.files",
  },
  QG_PRICE_FILE: {
    wrong: "a price file could not be read: its last prices stay in force, and where it was never read, what only it prices has no price",
    help: "mend what the line's error says; `quotaguard prices list` shows what is in force, and the file is read again by itself",
  },
  QG_MODELS_FILE: {
    wrong: "the providers' models could not be written beside the configuration",
    help: "let the process write to that folder, or set server.replace_v1_models to false",
  },
  QG_LEDGER_LOCAL: {
    wrong: "the store is shared and the ledger is not: each node keeps only its own rows",
    help: "name a Postgres that all nodes share in ledger.url",
  },
  QG_LEDGER_MEMORY: {
    wrong: "the ledger's rows end with this process, so budgets cannot be rebuilt if the store loses them",
    help: "name a sqlite: or postgres:// database in ledger.url",
  },
  QG_LEDGER_UNSEALED: {
    wrong: "the ledger's rows are written without seals, because the secret key cannot be used: nobody will see if one is altered",
    help: "mend what the line's error says about the key, then restart; `quotaguard audit` counts the rows without a seal",
  },
  QG_CONSERVATION: {
    wrong: "the books do not balance: a row of the ledger contradicts itself, was altered, or has no end",
    help: "the line names the row; `quotaguard audit` lists all of them. Unless somebody has changed the database, it is a bug of ours: please report it",
  },
  QG_LEDGER_SPOOLING: {
    wrong: "the ledger's database is away: rows are kept in a file on this machine, and requests go on",
    help: "look whether the database is well before ledger.spool.max_time is over; QG_LEDGER_REPLAYED says when all is in it",
  },
  QG_LEDGER_REPLAYED: { wrong: "rows that were kept in files are in the ledger (information)", help: "nothing is to be done" },
  QG_LEDGER_SPOOL_CLOSED: {
    wrong: "the ledger's database is away, and its spool takes nothing more: requests are refused with 503 until the database is back",
    help: "bring the database back; for longer outages raise ledger.spool.max_bytes and max_time, and see that the disk has room and is well",
  },
  QG_LEDGER_SPOOL_LEFT: {
    wrong: "the process ends while rows wait in a file for the ledger's database",
    help: "start a gateway again with the same ledger.url and spool.path, on this machine or with this folder: it writes them to the ledger",
  },
  QG_LEDGER_SPOOL_BROKEN: {
    wrong: "a file with rows for the ledger has lines that cannot be read; all others are in the ledger, and the file is kept",
    help: "see why (a crash of the machine, its disk), look at the lines of the .broken file, then move it away",
  },
  QG_STORE_DEGRADED: {
    wrong: "the store or the ledger cannot be used at the moment: limits are decided by their on_store_error",
    help: "look whether its server or disk is well; it is asked again every few seconds, and QG_STORE_BACK says when it is back",
  },
  QG_STORE_BACK: { wrong: "the store or the ledger is back (information)", help: "nothing is to be done; what waited is delivered" },
  QG_COUNTERS_LOST: {
    wrong: "the store has lost its counters: strict limits answer 503 until they are rebuilt from the ledger",
    help: "wait for QG_COUNTERS_REBUILT; then see why the store forgot (persistence, eviction, a new server)",
  },
  QG_COUNTERS_REBUILT: { wrong: "the counters are rebuilt, all limits are open (information)", help: "nothing is to be done" },
  QG_REBUILD_FAILED: {
    wrong: "the counters could not be rebuilt yet",
    help: "see the error; it is tried again until it succeeds",
  },
  QG_REBUILD_INCOMPLETE: {
    wrong: "the ledger does not know what was spent under the limits that are closed",
    help: "give all processes one ledger that lasts; or open the counters as they are: POST /v0/management/counters/open",
  },
  QG_REDIS_EVICTION: {
    wrong: "the Redis server drops keys when memory is short: budgets would begin anew and bans end",
    help: "set maxmemory-policy noeviction on it",
  },
  QG_REDIS_NO_PERSISTENCE: {
    wrong: "the Redis server keeps nothing on disk: its restart loses all counters, bans and settings",
    help: "set appendonly yes and appendfsync everysec on it",
  },
  QG_REDIS_LOST: {
    wrong: "the connection to the Redis server is lost",
    help: "look whether it runs and can be reached; the guard dials again by itself, and QG_REDIS_BACK says when it is back",
  },
  QG_REDIS_BACK: { wrong: "the connection to the Redis server is back (information)", help: "nothing is to be done" },
  QG_REDIS_ROLLED_BACK: {
    wrong: "the Redis server has come back in an older state",
    help: "set appendonly yes and appendfsync everysec on it, so that a restart forgets at most a second",
  },
  QG_REDIS_CORRUPT: {
    wrong: "a Redis key of ours holds what no version of the store has written",
    help: "look what wrote it, then delete it; until then its limit cannot be decided",
  },
  QG_REDIS_ERROR: {
    wrong: "the Redis server answered a command of ours with an error",
    help: "look at the error, and at the keys of the store's partition",
  },
  QG_REDIS_CROSSSLOT: {
    wrong: "the keys of one call lie in several slots of the Redis Cluster",
    help: "no proxy may rewrite keys between the guard and the servers",
  },
  QG_REDIS_OOM: { wrong: "the Redis server has no memory left", help: "raise its maxmemory, or give the guard a server of its own" },
  QG_REDIS_REFUSES_WRITES: {
    wrong: "the Redis server takes no writes",
    help: "see its log: a full disk, or fewer replicas than min-replicas-to-write",
  },
  QG_REDIS_NOPERM: {
    wrong: "the Redis server's user may not do what the store needs",
    help: "it needs +@read +@write +@scripting +@pubsub +@connection +time ~qg:* &qg:*",
  },
  QG_REDIS_WRONGTYPE: {
    wrong: "a Redis key of ours holds a value of another program",
    help: "delete it, or choose another partition",
  },
} as const satisfies Readonly<Record<string, Diagnostic>>;

export type DiagnosticCode = keyof typeof DIAGNOSTICS;

const helpOf = (code: unknown): string | undefined =>
  typeof code === "string" && Object.hasOwn(DIAGNOSTICS, code) ? DIAGNOSTICS[code as DiagnosticCode].help : undefined;

const told = new WeakMap<Logger, Set<string>>();

/**
 * Warns, once per logger (each guard has its own), of something that requests only make visible.
 *
 * @param wrong a constant text, when the code has several cases.
 */
export function diagnose(logger: Logger, code: DiagnosticCode, fields: object = {}, wrong: string = DIAGNOSTICS[code].wrong): void {
  let known = told.get(logger);
  if (!known) told.set(logger, (known = new Set()));
  const key = `${code} ${wrong}`;
  if (known.has(key)) return;
  known.add(key);
  logger.warn({ code, ...fields }, wrong);
}

/**
 * The logger of one guard: the host's, with a `help` beside each code that {@link DIAGNOSTICS} has. Without one, {@link warningLogger}.
 */
export function guardLogger(host: Logger | undefined): Logger {
  if (!host) return warningLogger();
  const helpful = (fields: object): object => {
    const help = "code" in fields ? helpOf(fields.code) : undefined;
    return help === undefined ? fields : { ...fields, help };
  };
  /** Lines come from timers and failures, where a throw would end the process: a logger that fails loses its line and nothing else. */
  const say = (level: keyof Logger, fields: object, message: string): void => {
    try {
      host[level](fields, message);
    } catch {
      // There is nobody left to tell.
    }
  };
  return {
    debug: (fields, message) => say("debug", fields, message),
    info: (fields, message) => say("info", helpful(fields), message),
    warn: (fields, message) => say("warn", helpful(fields), message),
    error: (fields, message) => say("error", helpful(fields), message),
  };
}

const MOST_TOLD = 100;
const MOST_FRAMES = 4;

const ignore = (): void => {};

/**
 * For hosts that give no logger: process warnings of the type `QuotaGuardWarning`, which Node prints on standard error and `process.on("warning")` hears.
 * Only diagnostics and failures, each once; everything else is dropped.
 */
export function warningLogger(): Logger {
  const seen = new Set<string>();
  function warn(fields: object, message: string): void {
    const code = "code" in fields && typeof fields.code === "string" ? fields.code : undefined;
    // "A request failed unexpectedly" is said of every mistake in a host's callbacks: each of those is told.
    const key = code ?? `${message}\n${whyOf(fields)}`;
    if (seen.has(key) || (seen.size >= MOST_TOLD && helpOf(code) === undefined)) return;
    seen.add(key);
    const { text, detail } = worded(fields, message);
    process.emitWarning(text, { type: "QuotaGuardWarning", ...(code === undefined ? {} : { code }), ...(detail === "" ? {} : { detail }) });
  }
  return {
    debug: ignore,
    info: ignore,
    // Others are about single requests: their refusals tell.
    warn: (fields, message) => (helpOf((fields as { code?: unknown }).code) === undefined ? undefined : warn(fields, message)),
    error: warn,
  };
}

function whyOf({ err }: { readonly err?: unknown }): string {
  if (err === undefined) return "";
  const { text, frames } = reasonOf(err);
  return `${text}\n${frames}`;
}

function worded(fields: object, message: string): { readonly text: string; readonly detail: string } {
  const { err, code, ...facts } = fields as Readonly<Record<string, unknown>>;
  const known = Object.entries(facts).filter(([, value]) => typeof value === "string" || typeof value === "number");
  const about = known.length === 0 ? "" : ` (${known.map(([name, value]) => `${name}: ${String(value)}`).join(", ")})`;
  const reason = err === undefined ? null : reasonOf(err);
  const detail = [reason?.frames, helpOf(code)].filter((line) => line !== undefined && line !== "").join("\n");
  return { text: `${message}${about}${reason ? `: ${reason.text}` : ""}`, detail };
}

/** Our own errors are written for people. What others put into theirs may be anything, a key too: those are told by name, code and place. */
function reasonOf(err: unknown): { readonly text: string; readonly frames: string } {
  if (GuardError.is(err) || err instanceof ConfigError) return { text: err.message, frames: "" };
  if (!(err instanceof Error)) return { text: "something that is no Error was thrown", frames: "" };
  const { code } = err as { readonly code?: unknown };
  const frames = (err.stack ?? "").split("\n").filter((line) => /^ {4}at /.test(line));
  return {
    text: typeof code === "string" && /^[A-Z_0-9]{1,60}$/.test(code) ? `${err.name} ${code}` : err.name,
    frames: frames.slice(0, MOST_FRAMES).join("\n"),
  };
}
