/** A strategy of somebody else's: shown the candidates, believed only when it picks one of them. */
import type { StrategyCall, StrategyCandidate, StrategyFunction } from "../../core/strategy.ts";
import { isPromise, type MaybePromise } from "../../core/time.ts";
import type { Usage } from "../../core/usage.ts";
import type { Candidate, Strategy } from "../candidate.ts";
import { roundRobin } from "./round-robin.ts";

export interface HostStrategyOptions {
  readonly fn: StrategyFunction;
  /** Requests that a credential serves now. */
  readonly inFlight: (credential: string) => number;
  /** What is left of a candidate's scarcest quota; null = nobody knows. */
  readonly remainingRatio: (candidate: Candidate) => number | null;
  /** USD, before markup; null = no price. */
  readonly costUsd: (candidate: Candidate, usage: Usage) => number | null;
  /** It threw, or returned what is no candidate. Never throws. */
  readonly failed: (error: unknown) => void;
}

const NO_SCOPES = Object.freeze({});
const nobodyKnows = (): Usage | null => null;

/** Asks `fn`; where it has no answer, whoever is next in turn is taken. */
export function hostStrategy({ fn, inFlight, remainingRatio, costUsd, failed }: HostStrategyOptions): Strategy {
  const inTurn = roundRobin();
  /** One for each candidate: what changes is read when the strategy looks. */
  const views = new WeakMap<Candidate, StrategyCandidate>();
  /** What the call that is being decided will probably use. Worked out when somebody asks for a price. */
  let usage: Usage | null | undefined;
  let usageOf = nobodyKnows;

  function viewOf(candidate: Candidate): StrategyCandidate {
    let view = views.get(candidate);
    if (view) return view;
    const { name, provider, tier, priority, weight } = candidate.credential;
    view = Object.freeze({
      name,
      provider,
      tier,
      priority,
      weight,
      get remainingRatio() {
        return remainingRatio(candidate);
      },
      get inFlight() {
        return inFlight(name);
      },
      get costUsd() {
        usage ??= usageOf();
        return usage === null ? null : costUsd(candidate, usage);
      },
    });
    views.set(candidate, view);
    return view;
  }

  function ask(open: readonly Candidate[], call: StrategyCall): Candidate | null {
    const picked = fn(open.map(viewOf), call) as MaybePromise<{ readonly name?: unknown } | null | undefined>;
    if (picked === null) return null;
    if (isPromise(picked)) {
      picked.then(undefined, () => undefined);
      throw new Error("a strategy is synchronous, and this one returned a promise");
    }
    // Within a tier no two have the same name.
    const found = open.find(({ credential }) => credential.name === picked?.name);
    if (!found) throw new Error("a strategy returns one of its candidates or null, and this one returned something else");
    return found;
  }

  return {
    pick(tier, open, request, look) {
      usage = undefined;
      usageOf = () => request.usage();
      let picked: Candidate | null = null;
      try {
        picked = ask(open, Object.freeze({ model: request.model, scopes: request.scopes ?? NO_SCOPES }));
      } catch (error) {
        if (!look) failed(error);
      } finally {
        usageOf = nobodyKnows;
      }
      return picked ?? inTurn.pick(tier, open, request, look);
    },
  };
}
