/** Who would serve a call, and why the others would not. */
import type { Call } from "./core/call.ts";
import type { Context } from "./core/context.ts";
import type { Choice, Lease } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import type { ExplainedCandidate, ExplainedOutcome, ExplainedReason } from "./core/explain.ts";
import { whyKeptOut } from "./credential-views.ts";
import { credentialsStep, type CredentialsOptions } from "./middleware/credentials.ts";
import type { AttemptSettings } from "./middleware/proxy/attempt-settings.ts";
import { mayEstimate } from "./middleware/proxy/token-count.ts";
import { wireFor } from "./middleware/proxy/wire.ts";
import type { Candidate } from "./pool/candidate.ts";
import type { ModelRequest, Pool } from "./pool/pool.ts";
import type { Preview, PreviewedCandidate, PreviewedRejection } from "./pool/preview.ts";
import { rowOf } from "./upstream/providers.ts";

export interface ExplainedChoice {
  readonly candidates: readonly ExplainedCandidate[];
  readonly served: ExplainedOutcome["served"];
  /** Null = somebody serves it. */
  readonly refusal: GuardError | null;
  /** What else is to be said of the answer. */
  readonly note: string | null;
}

export interface ExplainedChoiceParts {
  readonly choosing: Omit<CredentialsOptions, "pool">;
  readonly pool: Pool;
  readonly attempts: AttemptSettings;
  /** What a client is told of whatever was thrown. */
  readonly refusalOf: (thrown: unknown) => GuardError;
}

const NOBODY: Choice = { next: () => null };

export async function explainedChoice(parts: ExplainedChoiceParts, ctx: Context, call: Call): Promise<ExplainedChoice> {
  let preview: Preview;
  try {
    preview = await parts.pool.preview(await requestOf(parts.choosing, ctx));
  } catch (thrown) {
    return { candidates: [], served: null, refusal: parts.refusalOf(thrown), note: null };
  }
  const usable = preview.candidates.filter(({ rejection }) => rejection === null);
  const own = preview.candidates.filter(({ standsInFor }) => standsInFor === null);
  const hadAllOwn = own.length > 0 && own.every(({ rejection }) => rejection === null);
  const faults = new Map<Candidate, string>();
  let first: Candidate | undefined;
  let unsaid: GuardError | undefined;
  for (const { candidate, standsInFor } of usable) {
    if (standsInFor !== null && hadAllOwn && !first) {
      faults.set(candidate, "the model that was asked for cannot be asked this, so no other model takes its place");
      continue;
    }
    const fault = faultOf(parts.attempts, ctx, call, candidate, standsInFor !== null);
    if (!fault) {
      first ??= candidate;
      continue;
    }
    // Nobody is asked then, and so it is with the next one.
    faults.set(candidate, fault.message);
    if (!first) unsaid = fault;
  }
  const refusal = preview.refusal ?? (first ? null : ((hadAllOwn ? null : preview.busy) ?? unsaid ?? null));
  const candidates = explained(preview.candidates, faults);
  if (refusal && call.operation === "count_tokens" && isEstimated(refusal)) {
    return { candidates, served: null, refusal: null, note: "no provider can count this now, so the gateway answers its own estimate" };
  }
  return { candidates, served: first ? servedBy(first) : null, refusal, note: null };
}

const isEstimated = (error: GuardError): boolean => mayEstimate({ error, retryable: error.status === 429 || error.status === 503, answer: null });

const servedBy = ({ credential, model }: Candidate): ExplainedOutcome["served"] => ({
  credential: credential.name,
  provider: credential.provider,
  model,
});

/** What the step before the proxy asks of the pool. */
async function requestOf(choosing: Omit<CredentialsOptions, "pool">, ctx: Context): Promise<ModelRequest> {
  let asked: ModelRequest | undefined;
  const noting: Pick<Pool, "choose"> = {
    choose(request) {
      asked = request;
      return NOBODY;
    },
  };
  await credentialsStep({ ...choosing, pool: noting })(ctx);
  if (!asked) throw new Error("the credentials step asked for nobody");
  return asked;
}

/** Why its provider cannot be asked this; null = it can. */
function faultOf(
  attempts: AttemptSettings,
  ctx: Context,
  call: Call,
  { credential, model, name }: Candidate,
  isFallback: boolean,
): GuardError | null {
  const lease: Lease = { credential, model, name, isFallback, release: () => undefined };
  try {
    wireFor(attempts, ctx, call, lease, rowOf(credential));
    return null;
  } catch (error) {
    if (GuardError.is(error) && (error.code === "untranslatable" || error.code === "body_invalid")) return error;
    throw error;
  }
}

function explained(candidates: readonly PreviewedCandidate[], faults: ReadonlyMap<Candidate, string>): ExplainedCandidate[] {
  let place = 0;
  return candidates.map(({ candidate, standsInFor, rejection, judgement }) => {
    const fault = faults.get(candidate);
    const reason = fault === undefined ? rejection && reasonOf(rejection) : { code: "untranslatable", message: fault, until: null };
    return {
      credential: candidate.credential.name,
      provider: candidate.credential.provider,
      model: candidate.model,
      priority: candidate.credential.priority,
      isFallback: candidate.credential.isFallback,
      fallbackFor: standsInFor,
      place: reason ? null : (place += 1),
      reason,
      judgement,
    };
  });
}

function reasonOf({ reason, until, code, note }: PreviewedRejection): ExplainedReason {
  if (reason === "limited") return { code: reason, message: note ?? "at one of its own limits", until };
  return { code: reason, message: whyKeptOut({ reason, code, ...(note === null ? {} : { note }) }), until };
}
