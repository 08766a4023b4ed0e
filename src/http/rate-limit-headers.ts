import type { Charge, Rule, Standing, Unit } from "../core/store.ts";

/** The limit of a charge, as a client may see it. */
export interface VisibleLimit {
  readonly name: string;
}

/** `standard`: the draft's fields · `legacy`: `x-ratelimit-*`. */
export type HeaderStyle = "all" | "standard" | "legacy" | "none";

/** A structured-field string holds no control characters, quotes or backslashes. */
const names = new Map<string, string>();

/** Limit names come from config: as many as it has. */
function quoted(name: string): string {
  let text = names.get(name);
  if (text === undefined) names.set(name, (text = `"${name.replaceAll(/[^\x20-\x21\x23-\x5b\x5d-\x7e]/g, "_")}"`));
  return text;
}

/** The largest integer of a structured field (RFC 9651 3.3.1). */
const MOST = 999_999_999_999_999;
/** Money is shown in millionths of a dollar: the fields are integers. */
const shown = (unit: Unit, amount: number): number => Math.min(MOST, unit === "usd" ? Math.floor(amount / 1_000) : amount);
const size = (rule: Rule): number => (rule.kind === "bucket" ? rule.capacity : rule.limit);

function windowSeconds(rule: Rule): number | null {
  if (rule.kind === "sliding") return Math.ceil(rule.perMs / 1_000);
  if (rule.kind === "calendar") return Math.round((rule.bounds[2] - rule.bounds[1]) / 1_000);
  if (rule.kind === "bucket" && rule.n > 0) return Math.ceil((rule.capacity * rule.d) / rule.n / 1_000);
  return null;
}

interface Policy {
  readonly rules: readonly Rule[];
  readonly text: string;
}

/** The limits of a request are one array for all requests with the same scopes; what they promise changes only with their rules. */
const policies = new WeakMap<readonly VisibleLimit[], Policy>();

function policyOf(limits: readonly VisibleLimit[], charges: readonly Charge[]): string {
  const known = policies.get(limits);
  if (known && known.rules.length === charges.length && known.rules.every((rule, i) => rule === charges[i]?.rule)) return known.text;
  const text = charges.map((charge, i) => policyItem((limits[i] as VisibleLimit).name, charge)).join(", ");
  policies.set(limits, { rules: charges.map(({ rule }) => rule), text });
  return text;
}

function policyItem(name: string, { unit, rule }: Charge): string {
  const period = windowSeconds(rule);
  return `${quoted(name)};q=${shown(unit, size(rule))}${period === null ? "" : `;w=${Math.min(MOST, period)}`};qu="${unit === "usd" ? "micro-usd" : unit.replaceAll("_", "-")}"`;
}

const seconds = (ms: number): number => Math.min(MOST, Math.ceil(ms / 1_000));

/**
 * `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), one member per limit, and OpenAI's `x-ratelimit-*` for the tightest
 * requests and tokens limits. Name/value pairs; limits and standings are by charge.
 */
export function rateLimitHeaders(
  limits: readonly VisibleLimit[],
  charges: readonly Charge[],
  standings: readonly Standing[],
  style: HeaderStyle = "all",
): string[] {
  if (style === "none") return [];
  let state = "";
  let requests = -1;
  let tokens = -1;
  for (let i = 0; i < charges.length; i += 1) {
    const charge = charges[i] as Charge;
    const standing = standings[i];
    if (!standing) continue;
    const { name } = limits[i] as VisibleLimit;
    const { unit } = charge;
    const comma = state === "" ? "" : ", ";
    const remaining = Math.max(0, shown(unit, standing.available));
    state += `${comma}${quoted(name)};r=${remaining}${standing.resetMs === null ? "" : `;t=${seconds(standing.resetMs)}`}`;
    if (unit === "requests" && tighter(standings, i, requests)) requests = i;
    else if (unit === "tokens" && tighter(standings, i, tokens)) tokens = i;
  }
  if (state === "") return [];
  const headers = style === "legacy" ? [] : ["ratelimit-policy", policyOf(limits, charges), "ratelimit", state];
  if (style === "standard") return headers;
  if (requests >= 0) openaiHeaders(headers, "requests", charges[requests] as Charge, standings[requests] as Standing);
  if (tokens >= 0) openaiHeaders(headers, "tokens", charges[tokens] as Charge, standings[tokens] as Standing);
  return headers;
}

const tighter = (standings: readonly Standing[], index: number, than: number): boolean =>
  than < 0 || (standings[index] as Standing).available < (standings[than] as Standing).available;

function openaiHeaders(headers: string[], kind: "requests" | "tokens", { rule }: Charge, { available, resetMs }: Standing): void {
  headers.push(`x-ratelimit-limit-${kind}`, String(size(rule)), `x-ratelimit-remaining-${kind}`, String(Math.max(0, available)));
  if (resetMs !== null) headers.push(`x-ratelimit-reset-${kind}`, `${seconds(resetMs)}s`);
}
