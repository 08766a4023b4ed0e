import type { DiagnosticCode } from "../../core/diagnostics.ts";
import { ConfigError, GuardError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import type { Clock } from "../../core/time.ts";

/**
 * What is the matter, as far as we act differently. `connection`: no reply will come. `moved`: another server is in charge, dial anew. `waking`: it will
 * serve by itself. `refused`: it serves, but not this, and a person is needed. `setup`: settings that no waiting mends. `unknown`: it said no to this call.
 */
export type TroubleKind = "connection" | "moved" | "waking" | "noscript" | "refused" | "setup" | "unknown";

export interface Trouble {
  readonly kind: TroubleKind;
  /** Of a log line. */
  readonly code?: DiagnosticCode;
  /** What to do about it. */
  readonly advice?: string;
}

const CONNECTION: Trouble = { kind: "connection" };
const UNKNOWN: Trouble = {
  kind: "unknown",
  code: "QG_REDIS_ERROR",
  advice: "a script or command of the gateway was answered with an error: look at it, and at the keys of the store's partition",
};

/** In this order: inside of a script the server's own word may stand behind `ERR`. */
const SERVER_WORDS: readonly (readonly [RegExp, Trouble])[] = [
  [/^NOSCRIPT\b/, { kind: "noscript" }],
  [/^(?:LOADING|BUSY|TRYAGAIN)\b/, { kind: "waking" }],
  [/^(?:READONLY|MASTERDOWN|CLUSTERDOWN|MOVED|ASK)\b|Too many Cluster redirections/, { kind: "moved" }],
  [/^CROSSSLOT\b/, { kind: "refused", code: "QG_REDIS_CROSSSLOT", advice: "the keys of one call lie in several slots: is a proxy rewriting keys?" }],
  [
    /^OOM\b|used memory > 'maxmemory'/,
    { kind: "refused", code: "QG_REDIS_OOM", advice: "the server has no memory left: raise maxmemory, or give the gateway a server of its own" },
  ],
  [
    /^(?:MISCONF|NOREPLICAS)\b/,
    {
      kind: "refused",
      code: "QG_REDIS_REFUSES_WRITES",
      advice: "the server takes no writes: see its log (a full disk, or fewer replicas than min-replicas-to-write)",
    },
  ],
  [/^(?:WRONGPASS|NOAUTH)\b|invalid password|without any password configured/, { kind: "setup", advice: "set the right user and password" }],
  [
    /^NOPERM\b|ACL failure|user executing the script can't/,
    {
      kind: "refused",
      code: "QG_REDIS_NOPERM",
      advice: "the server's user may not do this: it needs +@read +@write +@scripting +@pubsub +@connection +time ~qg:* &qg:*",
    },
  ],
  [
    /^WRONGTYPE\b/,
    {
      kind: "refused",
      code: "QG_REDIS_WRONGTYPE",
      advice: "a key of the gateway holds a value of another program: delete it, or choose another partition",
    },
  ],
  [/DB index is out of range/, { kind: "setup", advice: "name a database that the server has" }],
  [
    /cluster support disabled/,
    { kind: "setup", advice: "the server is not in cluster mode: name it by a URL, or pass an ioredis Redis instead of a Cluster" },
  ],
  [/^ERR max number of clients/, CONNECTION],
  [/^[A-Z]+ /, UNKNOWN],
];

const TLS_CODE = /^(?:ERR_SSL_|EPROTO)/;

/** TLS on one side only, or bytes that are no Redis. */
const TLS: Trouble = {
  kind: "setup",
  advice: "it speaks neither Redis nor TLS as asked for: rediss:// is for servers with TLS, redis:// for those without",
};

const CERTIFICATE_CODE = /^(?:ERR_TLS_|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_MISMATCH)/;

const CERTIFICATE: Trouble = {
  kind: "setup",
  advice:
    "its certificate is not trusted: name its authority's file in NODE_EXTRA_CA_CERTS (or pass redisStore an ioredis client with tls: { ca }), or the host " +
    "that the certificate is for",
};

/** An error of ioredis holds the command with its arguments (AUTH with the password): only the text and code of it ever leave this folder. */
export function plainError(error: unknown): Error {
  const cause = error as { message?: unknown; code?: unknown; lastNodeError?: unknown; name?: unknown } | null;
  if (cause?.lastNodeError !== undefined && cause.lastNodeError !== null) return plainError(cause.lastNodeError);
  const code = typeof cause?.code === "string" ? cause.code : undefined;
  const text = typeof cause?.message === "string" ? cause.message : String(error);
  // ECONNREFUSED of a name with several addresses comes as an AggregateError without a text.
  const plain = new Error(text === "" ? (code ?? "the connection failed") : text);
  plain.name = "RedisError";
  return code === undefined ? plain : Object.assign(plain, { code });
}

export function troubleOf(error: unknown): Trouble {
  const { message, code } = plainError(error) as Error & { code?: string };
  if (code !== undefined && CERTIFICATE_CODE.test(code)) return CERTIFICATE;
  if (code !== undefined && TLS_CODE.test(code)) return TLS;
  // The parsers of ioredis 5 and 6 ask for a report of bytes they do not understand.
  if (message.endsWith("Please report this.")) return TLS;
  return SERVER_WORDS.find(([words]) => words.test(message))?.[1] ?? CONNECTION;
}

/** What a request is told when the server fails under it. Its name and words stay in `cause`. */
export function storeUnavailable(cause?: unknown, retryAfterMs?: number): GuardError {
  if (GuardError.is(cause)) return cause;
  return new GuardError("store_unavailable", "the shared store of the gateway cannot be used at the moment: try again shortly", {
    ...(cause === undefined ? {} : { cause: plainError(cause) }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs: Math.max(1, Math.ceil(retryAfterMs)) }),
  });
}

/** Names the setting, the server and the way out for anything that keeps the store from starting. */
export function startProblem(error: unknown, server: string): Error {
  if (error instanceof ConfigError) return error;
  const plain = plainError(error);
  const { kind, advice } = troubleOf(error);
  const what =
    kind === "connection"
      ? `it cannot be reached (${plain.message}): is it running, and are host, port and TLS (rediss://) right?`
      : kind === "waking"
        ? `it is not ready yet (${plain.message}): start again when it has loaded its data`
        : kind === "moved"
          ? `it takes no writes (${plain.message}): name the primary, or a Cluster client for a cluster`
          : `${advice ?? "it answered with an error"} (${plain.message})`;
  return configProblem(server, what, plain);
}

export function configProblem(server: string, what: string, cause?: Error): ConfigError {
  const problem = new ConfigError([`the Redis server ${server} (store.url, or redisStore's first argument) cannot be used: ${what}`]);
  if (cause !== undefined) problem.cause = cause;
  return problem;
}

const ALARM_EVERY_MS = 60_000;

/** Logs what a person must mend, each code at most once a minute. */
export function alarms(server: string, clock: Clock, logger: Logger): (error: unknown, trouble: Trouble) => void {
  const lastAtMs = new Map<string, number>();
  return (error, { code, advice }) => {
    if (code === undefined) return;
    const now = clock.monotonic();
    if (now - (lastAtMs.get(code) ?? -Infinity) < ALARM_EVERY_MS) return;
    lastAtMs.set(code, now);
    logger.error({ code, server, err: plainError(error) }, advice ?? "the Redis server refused a call");
  };
}
