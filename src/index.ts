/** The public names, one by one. */
export { createGuard, type GatewayHandler, type QuotaGuard } from "./guard.ts";
export type { FetchOptions, RunOptions, SdkOptions } from "./in-process.ts";
export { quotaGuard } from "./quota-guard.ts";
export { auth, budgets, credentials, fail2ban, idempotency, models, passthrough, proxy, scopes } from "./parts.ts";
export { contextOf, type ReportedUsage, type RequestQuota } from "./http/context-of.ts";
export type { Handler } from "./http/handler.ts";
export type { InProcessFetch } from "./http/in-process.ts";
export { ConfigError, GuardError, type ErrorCode, type GuardErrorDetails } from "./core/errors.ts";
export { loadConfig } from "./config/load.ts";
export { definePlugin } from "./define-plugin.ts";
export { combineStores } from "./stores/combine.ts";
export { defineStore, type StateChange, type StateWrite, type StoreDefinition } from "./stores/define-store.ts";
export { memoryStore } from "./stores/memory.ts";
export type { GuardOptions } from "./options.ts";
export type { CostFunction, CostValue, RefusedFunction, RouteBudgetOptions, SkipFunction } from "./options/budgets.ts";
export type { HostRequest, LimitAbout, LimitFunction, LimitOptions } from "./options/limits.ts";
export type { HeaderStyle } from "./http/rate-limit-headers.ts";
export type { Remaining } from "./remaining.ts";
export type {
  Admin,
  BlockView,
  BucketAddress,
  BucketView,
  ClientBanView,
  CredentialModelView,
  CredentialState,
  CredentialView,
  HealthView,
  LimitSync,
  QuotaView,
  RateView,
  ReservationView,
  ReservedQuota,
  AccountQuotas,
  QuotaGroupView,
} from "./core/admin.ts";
export type { KeyAdmin, KeyView, MadeKey, NewKey } from "./core/key-admin.ts";
export type {
  LimitAdmin,
  LimitChange,
  LimitSetting,
  LimitValueInput,
  LimitValueView,
  LimitView,
  NewLimitNumbers,
  ShadowReport,
  WouldRefuse,
} from "./core/limit-admin.ts";
export type { OrgAdmin, OrgView } from "./core/org-admin.ts";
export type { AuditOptions, AuditReport, AuditViolation, SealCounts } from "./core/audit.ts";
export type { UsageQuery, UsageRow, UsageTime } from "./core/usage-report.ts";
export { jsonAnswer, type Answer, type Sink, type Source } from "./core/answer.ts";
export type { Context } from "./core/context.ts";
export type { Events, GuardEvents } from "./core/events.ts";
export type {
  CallQuestion,
  Explain,
  ExplainedCall,
  ExplainedCandidate,
  ExplainedIdentity,
  ExplainedLimit,
  ExplainedOutcome,
  ExplainedPrice,
  ExplainedReason,
  ExplainedRequest,
  Explanation,
  ExplainQuestion,
  RequestQuestion,
} from "./core/explain.ts";
export type { Logger } from "./core/logger.ts";
export type { LedgerIntent, LedgerRow, LedgerState } from "./core/ledger.ts";
export type {
  GuardedFetch,
  GuardedFetchInit,
  Plugin,
  PluginCredential,
  PluginCredentials,
  PluginHost,
  PluginLock,
  PluginSecrets,
  QuotaFact,
  QuotaSource,
  QuotaUnit,
  RefreshedToken,
  RouteOptions,
} from "./core/plugin.ts";
export type { ProviderDefinition } from "./core/provider.ts";
export type { CustomScopes, ScopeInput, ScopeName, Scopes, ScopesInput } from "./core/scope.ts";
export type {
  Amounts,
  Charge,
  Continuity,
  CounterState,
  FinishResult,
  Ledger,
  LedgerField,
  LedgerFilter,
  LedgerGroup,
  LedgerStore,
  LedgerTotal,
  LimitStore,
  RecordStore,
  ReserveResult,
  Rule,
  Standing,
  Store,
  StrikeStore,
  Unit,
} from "./core/store.ts";
export type { QuotaLevel, ShownLevel, StrategyCall, StrategyCandidate, StrategyFunction } from "./core/strategy.ts";
export type { Step } from "./core/step.ts";
export type { Secret } from "./core/secret.ts";
export type { Clock, Timer } from "./core/time.ts";
export type { Provenance, Usage } from "./core/usage.ts";
export { usageIn as usage } from "./dialects/usage.ts";
export type { Transport } from "./upstream/transport.ts";
