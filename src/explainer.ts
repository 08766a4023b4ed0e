/** `guard.explain`: the gateway's own steps, over parts that only look, so that what is said is what would be decided. */
import { randomBytes } from "node:crypto";
import { contextOfCall, contextOfRequest, isRequest } from "./asked-call.ts";
import type { Call } from "./core/call.ts";
import type { Context, Principal, Services } from "./core/context.ts";
import { GuardError } from "./core/errors.ts";
import type { CallQuestion, Explain, ExplainedCall, ExplainedIdentity, ExplainedPrice, RequestQuestion } from "./core/explain.ts";
import { idFactory } from "./core/id.ts";
import { nanoToUsd } from "./core/money.ts";
import { hint } from "./core/nearest.ts";
import { BUILT_IN_SCOPES, scopesFrom, type Scopes, type ScopesInput } from "./core/scope.ts";
import { Secret } from "./core/secret.ts";
import { noStep, sequence, type Step } from "./core/step.ts";
import type { Ledger, Unit } from "./core/store.ts";
import { explainedChoice, type ExplainedChoice } from "./explained-choice.ts";
import { limitLook } from "./explained-limits.ts";
import { explainedRequest } from "./explained-request.ts";
import type { Planner } from "./limits/plan.ts";
import { authStep, type AuthMode, type ClientKey, type StoredKeys } from "./middleware/auth.ts";
import { budgetsStep, type BudgetsOptions, type Costs } from "./middleware/budgets.ts";
import type { CredentialsOptions } from "./middleware/credentials.ts";
import { scopesStep } from "./middleware/scopes.ts";
import type { AttemptSettings } from "./middleware/proxy/attempt-settings.ts";
import { callQuestion } from "./options/call-question.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { Pool } from "./pool/pool.ts";
import type { StoredKeys as KeyStore } from "./stored-keys.ts";

/** Who may come in, as the mounted gateway has it. */
export interface Admission {
  /** Throws ConfigError where nobody has decided. */
  mode(stored: StoredKeys): AuthMode;
  readonly openOrg: Step;
  readonly scopes: Step;
  readonly access: Step;
}

export interface ExplainerParts {
  readonly options: ResolvedOptions;
  readonly services: Services;
  readonly admission: Admission;
  readonly keys: Pick<KeyStore, "list" | "look">;
  /** Null = clients are not banned. */
  readonly fence: Step | null;
  readonly budgets: Omit<BudgetsOptions, "planner" | "holds" | "watch" | "inProcess">;
  readonly planner: Planner;
  readonly calls: Costs;
  readonly choosing: Omit<CredentialsOptions, "pool">;
  readonly pool: Pool;
  readonly attempts: AttemptSettings;
  readonly ledger: Pick<Ledger, "get" | "flush">;
}

/** What a price is made of, and what people want to see beside it. */
const PRICED: ReadonlySet<Unit> = new Set<Unit>(["usd", "tokens", "input_tokens", "output_tokens"]);
const COUNTED: ReadonlySet<Unit> = new Set<Unit>(["tokens", "input_tokens", "output_tokens"]);
const NONE: ReadonlySet<Unit> = new Set();

const NAMELESS: Principal = Object.freeze({ kind: "host", name: "host", scopes: Object.freeze({}), models: null, mayAssertScopes: false });

/** Answers each question by itself; none of them changes anything. */
export function explainer(parts: ExplainerParts): Explain {
  const { options, services, admission, keys, fence, planner, calls, choosing, pool, attempts } = parts;
  const { clock, logger } = services;
  const opening = { nextId: idFactory(clock.now), bodyLimit: options.server.bodyLimitBytes };
  const declared = [...BUILT_IN_SCOPES, ...options.scopes.names, ...Object.keys(options.scopes.headers)];
  /** What a key says by itself: of a description there is no request that the host's function could look at. */
  const ofKeyAlone = scopesStep({ headers: {}, trustHeaders: false, of: null });

  function checkedScopes(given: ScopesInput): Scopes {
    for (const name of Object.keys(given))
      if (!declared.includes(name)) throw new GuardError("scope_invalid", `unknown scope ${name}${hint(name, declared)}`, { scope: name });
    return scopesFrom(given);
  }

  /** By its name, or as a client presents it. */
  async function presented(key: string): Promise<{ readonly token: string; readonly mode: AuthMode }> {
    if (options.auth?.kind !== "keys") {
      if (options.auth?.kind === "custom") return { token: key, mode: admission.mode(keys.look) };
      throw new GuardError("body_invalid", "key: the app in front of this gateway says who its clients are; ask by scopes", { param: "key" });
    }
    const named = await keyNamed(key, options.auth.keys);
    if (!named) return { token: key, mode: admission.mode(keys.look) };
    // Whatever holds for keys holds for it: it is presented under a token that only this question knows.
    const token = randomBytes(24).toString("hex");
    return { token, mode: { kind: "keys", masterKey: null, keys: [{ ...named, key: new Secret(token) }], pepper: null } };
  }

  async function keyNamed(name: string, configured: readonly ClientKey[]): Promise<Omit<ClientKey, "key"> | undefined> {
    return configured.find((key) => key.name === name) ?? (await keys.list()).find((key) => key.name === name);
  }

  /** The request that is asked about, and who lets it in. */
  async function asked(question: CallQuestion | RequestQuestion): Promise<{ readonly ctx: Context; readonly admit: Step }> {
    if (isRequest(question)) {
      const ctx = contextOfRequest(question, services, opening);
      const mode: AuthMode = options.auth ? admission.mode(keys.look) : { kind: "host" };
      return { ctx, admit: sequence(fence ?? noStep, authStep(mode), admission.openOrg, admission.scopes, admission.access) };
    }
    const call = callQuestion(question);
    if (call.key !== undefined) {
      const { token, mode } = await presented(call.key);
      const ctx = contextOfCall(call, token, services, opening);
      return { ctx, admit: sequence(fence ?? noStep, authStep(mode), admission.openOrg, ofKeyAlone, admission.access) };
    }
    const ctx = contextOfCall(call, null, services, opening);
    ctx.principal = NAMELESS;
    ctx.scopes = checkedScopes(call.scopes ?? {});
    return { ctx, admit: admission.access };
  }

  /** What a client would be told of it. */
  function refusalOf(thrown: unknown): GuardError {
    if (GuardError.is(thrown)) return thrown;
    logger.warn({ err: thrown }, "what explain() was asked about failed unexpectedly, as the request would");
    return new GuardError("internal", "an internal error occurred; see the server's log", { cause: thrown });
  }

  async function refused(step: () => unknown): Promise<GuardError | null> {
    try {
      await step();
      return null;
    } catch (thrown) {
      return refusalOf(thrown);
    }
  }

  async function priceOf(ctx: Context, call: Call): Promise<ExplainedPrice | null> {
    const cost = async (units: ReadonlySet<Unit>): Promise<ExplainedPrice> => {
      const { ceiling, expected } = await calls.costOf(ctx, call, { units, enforced: NONE, capsOutput: true }, ctx.outputCap);
      return {
        ceilingUsd: ceiling.usd === undefined ? null : nanoToUsd(ceiling.usd),
        expectedUsd: expected.usd === undefined ? null : nanoToUsd(expected.usd),
        inputTokens: ceiling.input_tokens ?? 0,
        ceilingOutputTokens: ceiling.output_tokens ?? 0,
        expectedOutputTokens: expected.output_tokens ?? 0,
      };
    };
    try {
      return await cost(PRICED);
    } catch (error) {
      if (!GuardError.is(error)) throw error;
      return error.code === "model_not_priced" ? cost(COUNTED) : null;
    }
  }

  async function explainCall(question: CallQuestion | RequestQuestion): Promise<ExplainedCall> {
    const { ctx, admit } = await asked(question);
    const look = limitLook(planner);
    const outside = await refused(() => admit(ctx));
    const call = ctx.knownCall;
    if (outside || !call) return told(ctx, look.limits(clock.now()), null, outside ?? refusalOf(new Error("there is no call to explain")), null);
    const broke = await refused(() => budgetsStep({ ...parts.budgets, planner: look.planner, holds: look.holds, watch: look.watch })(ctx));
    // Who would serve it is worth knowing although a limit refuses it.
    const choice = await explainedChoice({ choosing, pool, attempts, refusalOf }, ctx, call);
    return told(ctx, look.limits(clock.now()), choice, broke ?? choice.refusal, await priceOf(ctx, call));
  }

  function told(
    ctx: Context,
    limits: ExplainedCall["limits"],
    choice: ExplainedChoice | null,
    refusal: GuardError | null,
    price: ExplainedPrice | null,
  ): ExplainedCall {
    const call = ctx.knownCall;
    return {
      kind: "call",
      at: clock.now(),
      identity: ctx.principal ? identityOf(ctx.principal, ctx.scopes) : null,
      scopes: ctx.scopes ?? {},
      call: call
        ? {
            dialect: call.dialect,
            operation: call.operation,
            model: call.model,
            resolved: parts.budgets.resolve(call.model),
            stream: call.stream,
            maxTokens: call.maxOutputTokens,
            sentMaxTokens: ctx.outputCap ?? null,
          }
        : null,
      limits,
      candidates: choice?.candidates ?? [],
      price,
      outcome: refusal
        ? { served: null, status: refusal.status, code: refusal.code, message: refusal.message, retryAfterMs: refusal.retryAfterMs ?? null }
        : { served: choice?.served ?? null, status: 200, code: null, message: choice?.note ?? null, retryAfterMs: null },
    };
  }

  return (async (question: string | CallQuestion | RequestQuestion) => {
    if (typeof question === "string") return explainedRequest(parts.ledger, question);
    if (typeof question === "object" && (question as object | null) !== null) return explainCall(question);
    throw new GuardError("body_invalid", "explain() takes the id of a past request, a request, or { key | scopes, model, maxTokens }");
  }) as Explain;
}

function identityOf({ kind, name, scopes, models }: Principal, own: Scopes | undefined): ExplainedIdentity {
  return { kind, key: kind === "host" && name === "host" ? null : name, org: (own ?? scopes).org ?? null, models };
}
