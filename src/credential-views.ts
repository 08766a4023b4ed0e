/** How the credentials stand, as operators see it: health, limits and load in one place. Nothing in it is secret. */
import type { BlockView, CredentialModelView, CredentialState, CredentialView, QuotaView } from "./core/admin.ts";
import type { Credential } from "./core/credential.ts";
import type { CredentialSlots, SendRate } from "./credential-slots.ts";
import type { Candidate } from "./pool/candidate.ts";
import type { ChoosingSettings } from "./pool/choosing-settings.ts";
import type { Block, Health } from "./pool/health.ts";
import type { ModelEntry, Offers } from "./pool/offers.ts";
import type { Pool } from "./pool/pool.ts";
import type { QuotaGate } from "./pool/quota-gate.ts";
import { amountOf } from "./pool/spend.ts";
import { shownLevel } from "./pool/quota-level.ts";

export interface CredentialViewParts {
  readonly offers: Offers;
  readonly models: readonly ModelEntry[];
  readonly pool: Pool;
  readonly health: Health;
  readonly slots: CredentialSlots;
  readonly gate: Pick<QuotaGate, "isQuiet" | "blockOf">;
  readonly quotasOf: (credential: Credential) => readonly QuotaView[];
  readonly choosing: ChoosingSettings;
}

export interface CredentialViews {
  all(): readonly CredentialView[];
  blocks(reason: "banned" | "cooling"): readonly BlockView[];
}

const STATES = {
  banned: "banned",
  cooling: "cooling",
  breaker: "failing",
  paused: "paused",
  exhausted: "limited",
  unaffordable: "limited",
} as const satisfies Record<Block["reason"], CredentialState>;

/** Whether there is room at all, for a request of no size. */
const SIZELESS = { amount: () => amountOf(0) };

/** What health is kept under for a credential as a whole: no model has an empty name. */
const WHOLE = "";

/** A credential as a whole: none of the models on it, so its health is that of no model. */
const wholeOf = (credential: Credential): Candidate => ({ credential, model: WHOLE, name: WHOLE, key: `${credential.name}/` });

interface Standing {
  readonly state: CredentialState;
  readonly until: number | null;
  readonly reason: string | null;
}

export function credentialViews({ offers, models, pool, health, slots, gate, quotasOf, choosing }: CredentialViewParts): CredentialViews {
  /** The names that the configuration has, with the credentials that they are for; null = all. Patterns name none. */
  function configuredNames(): ReadonlyMap<string, Set<Credential> | null> {
    const names = new Map<string, Set<Credential> | null>(models.map(({ name }) => [name, null]));
    for (const credential of offers.credentials) {
      for (const name of (credential.models ?? []).filter((pattern) => !pattern.includes("*"))) {
        if (!names.has(name)) names.set(name, new Set());
        names.get(name)?.add(credential);
      }
    }
    return names;
  }

  function candidatesOf(name: string): readonly Candidate[] {
    try {
      return offers.of(name).own;
    } catch {
      // In the table, and nobody offers it.
      return [];
    }
  }

  /** What each credential has of these, in the order of the config: one walk for all, because there may be many of both. */
  function namedCandidates(): ReadonlyMap<Credential, readonly Candidate[]> {
    const found = new Map<Credential, Candidate[]>(offers.credentials.all.map((credential) => [credential, []]));
    for (const [name, of] of configuredNames()) {
      for (const candidate of candidatesOf(name)) if (!of || of.has(candidate.credential)) found.get(candidate.credential)?.push(candidate);
    }
    return found;
  }

  function standing(candidate: Candidate, limitedUntil: number | null): Standing {
    const block = (health.isQuiet ? null : health.blockOf(candidate)) ?? (gate.isQuiet ? null : gate.blockOf(candidate, SIZELESS));
    if (block) return { state: STATES[block.reason], until: block.until, reason: whyKeptOut(block) };
    if (limitedUntil === null) return READY;
    return { state: "limited", until: limitedUntil === Infinity ? null : limitedUntil, reason: "at one of its own limits" };
  }

  const rates = (rate: SendRate): Pick<CredentialView, "rpm" | "tpm"> => ({
    rpm: { used: rate.requests, limit: rate.limits.rpm },
    tpm: { used: rate.tokens, limit: rate.limits.tpm },
  });

  function modelView(candidate: Candidate, credential: SendRate): CredentialModelView & Standing {
    const rate = slots.rateOf(candidate).model;
    return { name: candidate.name, ...standing(candidate, later(rate.limitedUntil, credential.limitedUntil)), ...rates(rate) };
  }

  function view(credential: Credential, candidates: readonly Candidate[]): CredentialView {
    const candidate = wholeOf(credential);
    const rate = slots.rateOf(candidate).credential;
    const named = candidates.map((each) => modelView(each, rate));
    const own = standing(candidate, rate.limitedUntil);
    // A credential whose every named model is kept out serves nothing, though it is not kept out itself.
    const isAllNamed = credential.models?.every((pattern) => !pattern.includes("*")) ?? false;
    const isIdle = own.state === "ready" && isAllNamed && named.length > 0 && named.every(({ state }) => state !== "ready");
    const first = isIdle ? named.toSorted((a, b) => (a.until ?? Infinity) - (b.until ?? Infinity))[0] : undefined;
    const quotas = quotasOf(credential);
    return {
      name: credential.name,
      provider: credential.provider,
      isFallback: credential.isFallback,
      priority: credential.priority,
      inFlight: pool.inFlight(credential.name),
      ...(first ? { state: first.state, until: first.until, reason: first.reason } : own),
      quotas,
      level: shownLevel(quotas.length === 0 ? null : Math.min(...quotas.map(({ remaining }) => remaining)), choosing.current.thresholds),
      ...rates(rate),
      models: named.map(({ reason: _reason, ...model }) => model),
    };
  }

  return {
    all: () => [...namedCandidates()].map(([credential, candidates]) => view(credential, candidates)),
    blocks: (reason) =>
      health
        .blocks()
        .filter((block) => (reason === "banned") === (block.reason === "banned"))
        .map((block) => ({
          credential: block.credential,
          model: block.model,
          code: block.code,
          reason: whyKeptOut(block),
          since: block.since,
          until: block.until,
        })),
  };
}

const READY: Standing = { state: "ready", until: null, reason: null };

/** There is room when both levels have some. */
const later = (one: number | null, other: number | null): number | null => (one === null || other === null ? (one ?? other) : Math.max(one, other));

/** For people. */
export function whyKeptOut({ reason, code, note }: Pick<Block, "reason" | "code" | "note">): string {
  if (note !== undefined) return note;
  if (reason === "breaker") return "its provider failed again and again; single requests try it after the time";
  if (reason === "banned") return `too many failures with status ${code}`;
  if (code === 429) return "at the provider's rate limit or quota";
  if (code === 401 || code === 402 || code === 403) return `refused by the provider with status ${code}`;
  return code === 502 || code === 504 ? `the provider failed or did not answer (${code})` : `the provider failed with status ${code}`;
}
