import { type Cluster, Redis } from "ioredis";

import { ConfigError } from "../../core/errors.ts";
import { warningLogger } from "../../core/diagnostics.ts";
import type { Logger } from "../../core/logger.ts";
import { type Clock, systemClock } from "../../core/time.ts";
import { CLIENT_OPTIONS, type RedisClient } from "./session.ts";

export interface RedisStoreOptions {
  /** After how many ms a call ends that the server has not answered. Default 250. */
  readonly deadlineMs?: number;
  /** Begins every key, as the hash tag of a cluster. Several deployments on one server need one each. Default `qg`. */
  readonly partition?: string;
  /** Default: the system's clock. */
  readonly clock?: Clock;
  /** Told when the server is lost and back, and what a person must mend. Default: process warnings. */
  readonly logger?: Logger;
  /** For tests: replaces the server's own time (ms since the epoch) in what is counted and what expires. */
  readonly serverTime?: () => number;
}

/** An ioredis client of the host. It is duplicated, so it may have any version that ioredis 5 or 6 has. */
export type RedisStoreSource =
  | string
  | ({ readonly url: string } & RedisStoreOptions)
  | ({ readonly client: RedisClient } & RedisStoreOptions)
  | RedisClient;

const OPTIONS: readonly string[] = ["url", "client", "deadlineMs", "partition", "clock", "logger", "serverTime"] satisfies (
  | keyof RedisStoreOptions
  | "url"
  | "client"
)[];

const DEFAULT_DEADLINE_MS = 250;
const LONGEST_DEADLINE_MS = 1000;

export interface RedisSettings {
  readonly dial: () => RedisClient;
  /** The address without user and password. */
  readonly server: string;
  readonly isCluster: boolean;
  readonly prefix: string;
  readonly deadlineMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly serverTime: (() => number) | undefined;
}

/** @throws ConfigError that names the option. */
export function redisSettings(source: RedisStoreSource, options: RedisStoreOptions): RedisSettings {
  const given: Readonly<Record<string, unknown>> =
    typeof source === "string"
      ? { ...options, url: source }
      : isClient(source)
        ? { ...options, client: source }
        : { ...(source as object | null | undefined), ...options };
  const problems = problemsOf(given);
  if (problems.length > 0) throw new ConfigError(problems);
  const {
    url,
    client,
    deadlineMs,
    partition = "qg",
    clock,
    logger,
    serverTime,
  } = given as RedisStoreOptions & { url?: string; client?: RedisClient };
  return {
    ...(client === undefined ? fromUrl(url as string) : fromClient(client)),
    prefix: `qg:{${partition}}:`,
    deadlineMs: deadlineMs ?? DEFAULT_DEADLINE_MS,
    clock: clock ?? systemClock,
    logger: logger ?? warningLogger(),
    serverTime,
  };
}

function problemsOf(given: Readonly<Record<string, unknown>>): string[] {
  const problems = Object.keys(given)
    .filter((name) => !OPTIONS.includes(name))
    .map((name) => `redisStore has no option ${name}: it knows ${OPTIONS.join(", ")}`);
  const { url, client, deadlineMs, partition, serverTime } = given;
  if ((url === undefined) === (client === undefined)) {
    problems.push("redisStore needs either a url, for example redis://localhost:6379/0, or a client of ioredis");
  }
  // The text is not repeated: it may hold a password.
  if (url !== undefined && !isRedisUrl(url))
    problems.push(
      "redisStore's url (store.url) must look like redis://user:password@host:6379/0, or rediss:// with TLS; % and @ in a password are written %25 " +
        "and %40, and after a ? there is only family=4, 6 or 0 (both)",
    );
  if (client !== undefined && !isClient(client)) problems.push("redisStore's client must be a Redis or Cluster of ioredis");
  if (deadlineMs !== undefined && !(Number.isInteger(deadlineMs) && Number(deadlineMs) >= 1 && Number(deadlineMs) <= LONGEST_DEADLINE_MS)) {
    problems.push(`redisStore's deadlineMs must be a whole number from 1 to ${LONGEST_DEADLINE_MS}, not ${JSON.stringify(deadlineMs)}`);
  }
  if (partition !== undefined && !(typeof partition === "string" && /^[A-Za-z0-9_-]{1,64}$/.test(partition))) {
    problems.push(`redisStore's partition must be 1 to 64 letters, digits, - or _, not ${JSON.stringify(partition)}`);
  }
  if (serverTime !== undefined && typeof serverTime !== "function") problems.push("redisStore's serverTime must be a function");
  return problems;
}

/** By its looks: a host's ioredis may be another copy than ours. */
function isClient(value: unknown): value is RedisClient {
  const { duplicate, callBuffer } = (value ?? {}) as { duplicate?: unknown; callBuffer?: unknown };
  return typeof duplicate === "function" && typeof callBuffer === "function";
}

function isRedisUrl(value: unknown): value is string {
  if (typeof value !== "string" || !URL.canParse(value)) return false;
  const { protocol, username, password, hostname, pathname, searchParams } = new URL(value);
  try {
    decodeURIComponent(username + password);
  } catch {
    return false;
  }
  // ioredis takes whatever stands behind the ? as an option of its own, as text, and before ours.
  const isPlain = [...searchParams].every(([name, setting]) => name === "family" && /^[046]$/.test(setting));
  return (protocol === "redis:" || protocol === "rediss:") && hostname !== "" && /^(?:\/\d*)?$/.test(pathname) && isPlain;
}

function fromUrl(url: string): Pick<RedisSettings, "dial" | "server" | "isCluster"> {
  const parsed = new URL(url);
  const { hostname, port, pathname } = parsed;
  const family = parsed.searchParams.get("family");
  parsed.search = "";
  const options = family === null ? CLIENT_OPTIONS : { ...CLIENT_OPTIONS, family: Number(family) };
  const db = pathname.slice(1) || "0";
  return { dial: () => new Redis(parsed.href, options), server: `${hostname}:${port || "6379"}/${db}`, isCluster: false };
}

function fromClient(client: RedisClient): Pick<RedisSettings, "dial" | "server" | "isCluster"> {
  if (client.isCluster) {
    const cluster = client as Cluster;
    const { startupNodes } = cluster as unknown as { readonly startupNodes: readonly unknown[] };
    return { dial: () => duplicateCluster(cluster), server: `cluster ${startupNodes.map(addressOf).join(", ")}`, isCluster: true };
  }
  const single = client as Redis;
  const { sentinels, name, path, host, port, db } = single.options;
  const place = sentinels ? `sentinel ${String(name)}` : (path ?? `${host ?? "localhost"}:${port ?? 6379}`);
  return { dial: () => single.duplicate(CLIENT_OPTIONS), server: `${place}/${db ?? 0}`, isCluster: false };
}

/** A cluster's commands that were sent already are not repeated by it, and a lost node ends it: the next one finds the topology anew. */
function duplicateCluster(cluster: Cluster): Cluster {
  const { lazyConnect: _, ...redisOptions } = CLIENT_OPTIONS;
  return cluster.duplicate([], {
    redisOptions: { ...cluster.options.redisOptions, ...redisOptions },
    keyPrefix: "",
    lazyConnect: false,
    enableOfflineQueue: false,
    enableReadyCheck: false,
    enableAutoPipelining: false,
    scaleReads: "master",
    maxRedirections: 3,
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    slotsRefreshTimeout: 1000,
    clusterRetryStrategy: () => null,
  });
}

function addressOf(node: unknown): string {
  if (typeof node === "number") return `localhost:${node}`;
  if (typeof node === "string") return URL.canParse(node) ? new URL(node).host : "a host";
  const { host, port } = node as { host?: string; port?: number };
  return `${host ?? "localhost"}:${port ?? 6379}`;
}
