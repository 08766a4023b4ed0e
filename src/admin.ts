/** What operators can do, whichever face they do it through. */
import type { Admin, BucketAddress, BucketView, LimitSync } from "./core/admin.ts";
import type { ClientFence } from "./client-fence.ts";
import type { Services } from "./core/context.ts";
import type { Credential } from "./core/credential.ts";
import type { CredentialPauses } from "./credential-pauses.ts";
import { GuardError } from "./core/errors.ts";
import { BUILT_IN_SCOPES } from "./core/scope.ts";
import type { BucketRule, Ledger, Store } from "./core/store.ts";
import type { Holds } from "./limits/holds.ts";
import type { LimitDefinition } from "./limits/limit.ts";
import { encodeValue, valueLabel, type CompiledLimit, type LimitRegistry } from "./limits/registry.ts";
import type { Lending } from "./lending.ts";
import type { Reselling } from "./reselling.ts";
import { quotaViews } from "./quota-views.ts";
import { providerLimits } from "./provider-limits.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { StoreWatch } from "./store-watch.ts";
import type { Transport } from "./upstream/transport.ts";
import { usageReport } from "./usage-report.ts";

/** TokenGuard's own defaults, for a bucket that is created by naming only one of its numbers. */
const DEFAULT_CAPACITY = 1_000;
const DEFAULT_REFILL_PER_SEC = 5;

export interface AdminParts {
  readonly store: Store;
  readonly watch: Pick<StoreWatch, "state" | "isLedgerAway" | "areCountersUnsure">;
  readonly ledger: Ledger;
  readonly registry: LimitRegistry;
  readonly scopes: ResolvedOptions["scopes"];
  readonly credentials: Iterable<Credential>;
  readonly pauses: CredentialPauses;
  readonly reselling: Reselling;
  readonly lent: Lending;
  readonly fence: ClientFence;
  readonly discoverModels: () => Promise<readonly string[]>;
  readonly openCounters: () => Promise<void>;
  readonly audit: Admin["audit"];
  readonly explain: Admin["explain"];
  readonly holds: Holds;
  readonly transport: Transport;
  readonly services: Services;
  readonly openRequests: () => number;
  readonly status: () => "ok" | "starting" | "closing" | "unavailable";
}

export function adminOf(parts: AdminParts): Admin {
  const { store, watch, ledger, registry, lent, services } = parts;
  const { clock } = services;
  const startedAt = clock.monotonic();

  /** The tokens bucket of a scope; created for single values when the config has none. */
  function bucketLimit(scope: string, create: boolean): CompiledLimit | undefined {
    const isOurs = ({ definition }: CompiledLimit): boolean =>
      definition.unit === "tokens" && "bucket" in definition.kind && definition.scope.length === 1 && definition.scope[0] === scope;
    return registry.all().find(isOurs) ?? (create ? registry.add(runtimeBudget(scope), true) : undefined);
  }

  /** Buckets that were created at run time exist here as soon as their numbers are known: after a restart, or from another process. */
  const runtimeScopes = new Map(BUILT_IN_SCOPES.map((scope) => [budgetName(scope), scope]));
  const heard = (name: string): void => {
    const scope = runtimeScopes.get(name);
    if (scope !== undefined && registry.hasNumbers(name)) bucketLimit(scope, true);
  };
  for (const name of runtimeScopes.keys()) heard(name);
  registry.onNumbers(heard);

  /** Whether nobody can be served: no request may be sent unless it is written down first, and a limit that counts everybody must not be guessed. */
  function isClosed(): boolean {
    if (watch.isLedgerAway()) return true;
    if (!watch.areCountersUnsure()) return false;
    const now = clock.now();
    return registry.all().some((limit) => {
      const { onStoreError, scope } = limit.definition;
      return onStoreError === "deny" && scope.every((each) => each === "global") && limit.enforcing(now);
    });
  }

  /** Stored first: a change that could not be stored has changed nothing. */
  async function setNumbers(address: BucketAddress, numbers: { readonly limit: number; readonly refillPerSec: number }): Promise<CompiledLimit> {
    const name = bucketLimit(address.scope, false)?.name ?? budgetName(address.scope);
    await registry.set(name, place(address).label, { ...numbers, until: null });
    return bucketLimit(address.scope, true) as CompiledLimit;
  }

  const place = ({ scope, id, org }: BucketAddress): { key: readonly string[]; label: string } => {
    const values = [scope === "global" ? "all" : (id as string)];
    const owner = scope === "global" || scope === "org" ? null : (org ?? null);
    return { key: (owner === null ? values : [owner, ...values]).map(encodeValue), label: valueLabel(owner, values) };
  };

  async function ruleFor(limit: CompiledLimit, address: BucketAddress): Promise<BucketRule | null> {
    const scopes = {
      ...(address.id === undefined ? {} : { [address.scope]: address.id }),
      ...(address.org === undefined ? {} : { org: address.org }),
    };
    const rule = await limit.rule(place(address).label, { scopes, principal: undefined, req: undefined as never }, clock.now());
    return rule?.kind === "bucket" ? rule : null;
  }

  async function bucket(address: BucketAddress): Promise<BucketView> {
    const limit = bucketLimit(address.scope, false);
    const rule = limit && (await ruleFor(limit, address));
    if (!limit || !rule) {
      throw new GuardError(
        "not_found",
        `scope ${address.scope} has no tokens bucket${address.id === undefined ? "" : " for this id"}; POST /config/budget sets one`,
      );
    }
    const [standing] = await store.limits.peek([{ key: limit.key(place(address).key), rule }]);
    return { tokens: standing?.available ?? rule.capacity, capacity: rule.capacity, refillPerSec: (rule.n * 1_000) / rule.d };
  }

  /** A new rate counts from now on: the state takes it over now, not at the next request. */
  async function adopt(limit: CompiledLimit, address: BucketAddress, take: number): Promise<void> {
    const rule = await ruleFor(limit, address);
    if (!rule) return;
    await parts.reselling.adopt({ key: limit.key(place(address).key), unit: "tokens", rule }, take);
  }

  return {
    health: () => ({
      status: parts.status() === "ok" && isClosed() ? "unavailable" : parts.status(),
      store: store.name,
      storeState: watch.state(),
      uptimeSeconds: Math.floor((clock.monotonic() - startedAt) / 1_000),
      openRequests: parts.openRequests(),
      waitingSettlements: parts.holds.waiting,
      credentials: lent.credentials(),
    }),
    keys: parts.reselling.keys,
    orgs: parts.reselling.orgs,
    limits: parts.reselling.limits,
    bucket,
    async setBucket(address, numbers) {
      if (numbers.capacity === undefined && numbers.refillPerSec === undefined) {
        throw new GuardError("body_invalid", "give capacity, refillPerSec or both");
      }
      const known = bucketLimit(address.scope, false);
      const before = known ? await ruleFor(known, address) : null;
      const limit = await setNumbers(address, {
        limit: numbers.capacity ?? before?.capacity ?? DEFAULT_CAPACITY,
        refillPerSec: numbers.refillPerSec ?? (before ? (before.n * 1_000) / before.d : DEFAULT_REFILL_PER_SEC),
      });
      if (before) await adopt(limit, address, 0);
      return bucket(address);
    },
    async syncLimits(): Promise<LimitSync> {
      const found = await providerLimits({ ...parts, clock, read: lent.readQuotas });
      if (found.kind === "skipped") return { status: "skipped", message: found.reason, headers: {}, bucket: null };
      const address: BucketAddress = { scope: "global" };
      const limit = await setNumbers(address, { limit: found.capacity, refillPerSec: found.refillPerSec });
      // What others have used up at the provider is not there for us either; what we hold ourselves is already counted.
      const { tokens } = await bucket(address);
      await adopt(limit, address, Math.max(0, tokens - found.tokens));
      return { status: "success", message: "the global bucket follows the provider's limits", headers: found.headers, bucket: await bucket(address) };
    },
    credentials: lent.credentials,
    reservations: lent.reservations,
    pause: parts.pauses.pause,
    resume: parts.pauses.resume,
    bans: lent.bans,
    liftBans: (credential, model) => lent.lift("banned", credential, model),
    cooldowns: lent.cooldowns,
    clearCooldowns: (credential, model) => lent.lift("cooling", credential, model),
    discoverModels: parts.discoverModels,
    clientBans: () => parts.fence.bans(),
    liftClientBan: (client) => parts.fence.lift(client),
    async openCounters() {
      if (store.limits.continuity?.isWhole !== false) return false;
      await parts.openCounters();
      return true;
    },
    usage: usageReport({ ledger, scopes: parts.scopes, clock }),
    audit: parts.audit,
    explain: parts.explain,
    quotas: quotaViews(lent.credentials, () => lent.choosing.current.thresholds),
  };

  function runtimeBudget(scope: string): LimitDefinition {
    return {
      name: budgetName(scope),
      scope: [scope],
      unit: "tokens",
      kind: { bucket: { capacity: DEFAULT_CAPACITY, refillPerSec: DEFAULT_REFILL_PER_SEC } },
      mode: "enforce",
      onStoreError: "local",
      required: false,
      overrides: {},
      whenShort: "refuse",
      estimate: "expected",
    };
  }
}

const budgetName = (scope: string): string => `budget-${scope}`;
