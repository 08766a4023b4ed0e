/** How the credentials stand, as operators see it: health, limits and load in one place. Nothing in it is secret. */
import type { BlockView, CredentialModelView, CredentialState, CredentialView } from "./core/admin.ts";
import type { Credential } from "./core/credential.ts";
import type { CredentialSlots, SendRate } from "./credential-slots.ts";
import type { Candidate } from "./pool/candidate.ts";
import type { Block, Health } from "./pool/health.ts";
import type { ModelEntry, Offers } from "./pool/offers.ts";
import type { Pool } from "./pool/pool.ts";

export interface CredentialViewParts {
  readonly offers: Offers;
  readonly models: readonly ModelEntry[];
  readonly pool: Pool;
  readonly health: Health;
  readonly slots: CredentialSlots;
}

export interface CredentialViews {
  all(): readonly CredentialView[];
  blocks(reason: "banned" | "cooling"): readonly BlockView[];
}

const STATES = { banned: "banned", cooling: "cooling", breaker: "failing" } as const satisfies Record<Block["reason"], CredentialState>;

/** What health is kept under for a credential as a whole: no model has an empty name. */
const WHOLE = "";

export function credentialViews({ offers, models, pool, health, slots }: CredentialViewParts): CredentialViews {
  const whole = new Map<string, Candidate>();
  for (const candidate of offers.any(WHOLE).candidates) whole.set(candidate.credential.name, candidate);

  /** The models that the configuration names for a credential: patterns name none. */
  function namesOf(credential: Credential): readonly string[] {
    const literal = (credential.models ?? []).filter((pattern) => !pattern.includes("*"));
    return [...new Set([...models.map(({ name }) => name), ...literal])];
  }

  function candidatesOf(credential: Credential): readonly Candidate[] {
    return namesOf(credential).flatMap((name) => {
      try {
        return offers.of(name).candidates.filter((candidate) => candidate.credential === credential);
      } catch {
        // In the table, and nobody offers it.
        return [];
      }
    });
  }

  const standing = (block: Block | null, rates: readonly SendRate[]): { readonly state: CredentialState; readonly until: number | null } => {
    if (block) return { state: STATES[block.reason], until: block.until };
    const limited = rates.find(({ limitedUntil }) => limitedUntil !== null);
    if (!limited) return { state: "ready", until: null };
    return { state: "limited", until: limited.limitedUntil === Infinity ? null : limited.limitedUntil };
  };

  const rates = (rate: SendRate): Pick<CredentialView, "rpm" | "tpm"> => ({
    rpm: { used: rate.requests, limit: rate.limits.rpm },
    tpm: { used: rate.tokens, limit: rate.limits.tpm },
  });

  function modelView(candidate: Candidate): CredentialModelView {
    const rate = slots.rateOf(candidate);
    return { name: candidate.name, ...standing(health.blockOf(candidate), [rate.model, rate.credential]), ...rates(rate.model) };
  }

  function view(credential: Credential): CredentialView {
    const candidate = whole.get(credential.name) as Candidate;
    const rate = slots.rateOf(candidate).credential;
    const named = candidatesOf(credential).map(modelView);
    const own = standing(health.blockOf(candidate), [rate]);
    // A credential whose every named model is kept out serves nothing, though it is not kept out itself.
    const isAllNamed = credential.models?.every((pattern) => !pattern.includes("*")) ?? false;
    const isIdle = own.state === "ready" && isAllNamed && named.length > 0 && named.every(({ state }) => state !== "ready");
    const first = isIdle ? named.toSorted((a, b) => (a.until ?? Infinity) - (b.until ?? Infinity))[0] : undefined;
    return {
      name: credential.name,
      provider: credential.provider,
      isFallback: credential.isFallback,
      priority: credential.priority,
      inFlight: pool.inFlight(credential.name),
      ...(first ? { state: first.state, until: first.until } : own),
      ...rates(rate),
      models: named,
    };
  }

  return {
    all: () => offers.credentials.map(view),
    blocks: (reason) =>
      health
        .blocks()
        .filter((block) => (reason === "banned") === (block.reason === "banned"))
        .map((block) => ({
          credential: block.credential,
          model: block.model,
          code: block.code,
          reason: why(block),
          since: block.since,
          until: block.until,
        })),
  };
}

function why({ reason, code }: Block): string {
  if (reason === "breaker") return "its provider failed again and again; one request tries it after the time";
  if (reason === "banned") return `too many answers with status ${code}`;
  if (code === 429) return "at the provider's rate limit";
  return code === 401 || code === 402 || code === 403 ? `refused by the provider with status ${code}` : `the provider failed with status ${code}`;
}
