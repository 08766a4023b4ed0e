import type { Workload } from "../workloads.ts";
import type { Job } from "./job.ts";

export type ContenderId = "memory" | "sqlite" | "redis" | "flexible";
export type GatewayId = "gateway-memory" | "gateway-sqlite" | "gateway-redis";
export type Group = "process" | "redis" | "gateway";

interface Common {
  readonly id: string;
  readonly title: string;
  readonly needsRedis: boolean;
}

/** One row of the bench: verbs of a store, or requests through a gateway. */
export type Case =
  | (Common & { readonly group: "process" | "redis"; readonly contender: ContenderId; readonly job: Pick<Job, "verbs" | "shape" | "inFlight"> })
  | (Common & { readonly group: "gateway"; readonly gateway: GatewayId; readonly workload: Workload["id"] });

const FLEXIBLE = "rate-limiter-flexible × 5";

// Those that are compared stand next to each other, so that little time passes between their turns.
export const cases: readonly Case[] = [
  { ...inProcess("memory", "memory"), job: { verbs: "pairs", shape: "buckets", inFlight: 0 } },
  { ...inProcess("memory@64", "memory"), job: { verbs: "pairs", shape: "buckets", inFlight: 64 } },
  { ...inProcess("sqlite", "sqlite"), job: { verbs: "pairs", shape: "buckets", inFlight: 0 } },
  { ...ours("reserve@64", "reserve, 5 buckets"), job: { verbs: "reserve", shape: "buckets", inFlight: 64 } },
  { ...flexible("together@64", "Promise.all"), job: { verbs: "together", shape: "buckets", inFlight: 64 } },
  { ...ours("pairs@64", "reserve + settle, 5 buckets"), job: { verbs: "pairs", shape: "buckets", inFlight: 64 } },
  { ...flexible("one-by-one@64", "one after the other"), job: { verbs: "one-by-one", shape: "buckets", inFlight: 64 } },
  { ...ours("fresh-pairs@64", "the same, charges made anew"), job: { verbs: "fresh-pairs", shape: "buckets", inFlight: 64 } },
  { ...ours("mixed@64", "reserve, all kinds"), job: { verbs: "reserve", shape: "mixed", inFlight: 64 } },
  { ...ours("mixed-pairs@64", "reserve + settle, all kinds"), job: { verbs: "pairs", shape: "mixed", inFlight: 64 } },
  { ...ours("reserve@1", "reserve, 5 buckets, one at a time"), job: { verbs: "reserve", shape: "buckets", inFlight: 1 } },
  { ...flexible("together@1", "Promise.all, one at a time"), job: { verbs: "together", shape: "buckets", inFlight: 1 } },
  { ...ours("pairs@1", "reserve + settle, 5 buckets, one at a time"), job: { verbs: "pairs", shape: "buckets", inFlight: 1 } },
  { ...flexible("one-by-one@1", "one after the other, one at a time"), job: { verbs: "one-by-one", shape: "buckets", inFlight: 1 } },
  ...(["json", "sse"] as const).flatMap((workload) => [
    gateway("gateway-memory", "memory", workload),
    gateway("gateway-redis", "Redis", workload),
    gateway("gateway-sqlite", "SQLite", workload),
  ]),
];

function inProcess(id: string, contender: "memory" | "sqlite") {
  return { id, title: "store: reserve + settle, 5 buckets", group: "process", contender, needsRedis: false } as const;
}

function ours(id: string, title: string) {
  return { id, title: `Redis store: ${title}`, group: "redis", contender: "redis", needsRedis: true } as const;
}

function flexible(id: string, title: string) {
  return { id, title: `${FLEXIBLE}: ${title}`, group: "redis", contender: "flexible", needsRedis: true } as const;
}

function gateway(target: GatewayId, title: string, workload: "json" | "sse"): Case {
  const needsRedis = target === "gateway-redis";
  return { id: `${target}-${workload}`, title: `gateway on ${title}, ${workload}`, group: "gateway", gateway: target, workload, needsRedis };
}

/** What is compared with what, by the operations per second within a round. */
export interface Comparison {
  readonly of: string;
  readonly with: string;
}

export const comparisons: readonly Comparison[] = [
  { of: "reserve@64", with: "together@64" },
  { of: "pairs@64", with: "together@64" },
  { of: "fresh-pairs@64", with: "together@64" },
  { of: "reserve@64", with: "one-by-one@64" },
  { of: "reserve@1", with: "together@1" },
  { of: "reserve@1", with: "one-by-one@1" },
  ...["json", "sse"].flatMap((workload) => [
    { of: `gateway-redis-${workload}`, with: `gateway-memory-${workload}` },
    { of: `gateway-sqlite-${workload}`, with: `gateway-memory-${workload}` },
  ]),
];
