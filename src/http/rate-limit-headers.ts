import type { Rule, Standing, Unit } from "../core/store.ts";

/** One limit as a client may see it. */
export interface VisibleLimit {
  readonly name: string;
  readonly unit: Unit;
  readonly rule: Rule;
}

/** A structured-field string holds no control characters, quotes or backslashes. */
const quoted = (name: string): string => `"${name.replaceAll(/[^\x20-\x21\x23-\x5b\x5d-\x7e]/g, "_")}"`;

/** Money is shown in millionths of a dollar: the fields are integers. */
const shown = (unit: Unit, amount: number): number => (unit === "usd" ? Math.floor(amount / 1_000) : amount);
const size = (rule: Rule): number => (rule.kind === "bucket" ? rule.capacity : rule.limit);

function windowSeconds(rule: Rule): number | null {
  if (rule.kind === "sliding") return Math.ceil(rule.perMs / 1_000);
  if (rule.kind === "calendar") return Math.round((rule.bounds[2] - rule.bounds[1]) / 1_000);
  if (rule.kind === "bucket" && rule.n > 0) return Math.ceil((rule.capacity * rule.d) / rule.n / 1_000);
  return null;
}

const policies = new WeakMap<Rule, string>();

function policyOf({ name, unit, rule }: VisibleLimit): string {
  let policy = policies.get(rule);
  if (policy === undefined) {
    const seconds = windowSeconds(rule);
    policy = `${quoted(name)};q=${shown(unit, size(rule))}${seconds === null ? "" : `;w=${seconds}`};qu="${unit === "usd" ? "micro-usd" : unit.replaceAll("_", "-")}"`;
    policies.set(rule, policy);
  }
  return policy;
}

const seconds = (ms: number): number => Math.ceil(ms / 1_000);

/**
 * `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), one member per limit, and OpenAI's `x-ratelimit-*` for the tightest
 * requests and tokens limits. Name/value pairs.
 */
export function rateLimitHeaders(limits: readonly VisibleLimit[], standings: readonly Standing[]): string[] {
  let policy = "";
  let state = "";
  let requests = -1;
  let tokens = -1;
  for (let i = 0; i < limits.length; i += 1) {
    const limit = limits[i] as VisibleLimit;
    const standing = standings[i];
    if (!standing) continue;
    const comma = policy === "" ? "" : ", ";
    policy += comma + policyOf(limit);
    const remaining = Math.max(0, shown(limit.unit, standing.available));
    state += `${comma}${quoted(limit.name)};r=${remaining}${standing.resetMs === null ? "" : `;t=${seconds(standing.resetMs)}`}`;
    if (limit.unit === "requests" && tighter(standings, i, requests)) requests = i;
    if (limit.unit === "tokens" && tighter(standings, i, tokens)) tokens = i;
  }
  if (policy === "") return [];
  const headers = ["ratelimit-policy", policy, "ratelimit", state];
  openaiHeaders(headers, "requests", limits[requests], standings[requests]);
  openaiHeaders(headers, "tokens", limits[tokens], standings[tokens]);
  return headers;
}

const tighter = (standings: readonly Standing[], index: number, than: number): boolean =>
  than < 0 || (standings[index] as Standing).available < (standings[than] as Standing).available;

function openaiHeaders(headers: string[], kind: "requests" | "tokens", limit: VisibleLimit | undefined, standing: Standing | undefined): void {
  if (!limit || !standing) return;
  headers.push(`x-ratelimit-limit-${kind}`, String(size(limit.rule)));
  headers.push(`x-ratelimit-remaining-${kind}`, String(Math.max(0, standing.available)));
  if (standing.resetMs !== null) headers.push(`x-ratelimit-reset-${kind}`, `${seconds(standing.resetMs)}s`);
}
