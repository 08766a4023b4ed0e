/** Asks providers what they offer, at most once in a while, and never keeps anybody waiting who can be served from what is known. */
import type { Credential } from "../../core/credential.ts";
import type { Clock, MaybePromise } from "../../core/time.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import type { ListedModel, ModelCatalogue } from "../../pool/catalogue.ts";
import { askProvider } from "../../upstream/ask.ts";
import { rowOf } from "../../upstream/providers.ts";
import type { Transport } from "../../upstream/transport.ts";

const FRESH_MS = 5 * 60_000;
/** A provider that failed is asked again sooner, but not by each request. */
const RETRY_MS = 30_000;
const TIMEOUT_MS = 5_000;
const MAX_LIST_BYTES = 4 * 1024 * 1024;
/** Ids end up on terminals and in config files: what no configured name may be is no id either. */
const LABEL = /^\P{Cc}{1,256}$/u;

export interface DiscoveryOptions {
  /** Looked at anew at each round. */
  readonly credentials: Iterable<Credential>;
  /** Is told what was found. */
  readonly catalogue: ModelCatalogue;
  readonly transport: Transport;
  readonly clock: Clock;
  /** After each answer; `error` null = its list was read. */
  readonly onAnswer: (credential: Credential, error: Error | null) => void;
}

export interface ModelDiscovery {
  /** Those that are asked: the models of the others are all named in the configuration. */
  readonly asked: readonly Credential[];
  /** Asks every provider whose list is not fresh, all at the same time. Takes at most the deadline of one answer and never rejects. */
  refresh(): Promise<void>;
  /** Sees to it that lists are fresh. Only who comes before the first round is over has to wait; later rounds go on behind. */
  ensure(): MaybePromise<void>;
}

export function modelDiscovery(options: DiscoveryOptions): ModelDiscovery {
  const { catalogue, clock, onAnswer } = options;
  /** By what was asked: another key alone makes no other list, another address does. */
  const dueAt = new Map<string, number>();
  let round: Promise<void> | undefined;
  let hasAsked = false;

  const isAsked = (credential: Credential): boolean => {
    const { paths, models: known } = rowOf(credential);
    if (paths.models === undefined && known === undefined) return false;
    const { models } = credential;
    return models === null || models.some((pattern) => pattern.includes("*"));
  };
  const asked = (): readonly Credential[] => [...options.credentials].filter(isAsked);
  const placeOf = ({ name, provider, origin, basePath, models }: Credential): string => JSON.stringify([name, provider, origin, basePath, models]);

  /** Those of credentials that are gone. */
  function sweep(): void {
    const now = new Set(asked().map(placeOf));
    if (dueAt.size > now.size) for (const place of dueAt.keys()) if (!now.has(place)) dueAt.delete(place);
  }

  async function ask(credential: Credential): Promise<void> {
    let error: Error | null = null;
    const place = placeOf(credential);
    const isThere = (): boolean => asked().some((each) => placeOf(each) === place);
    try {
      const list = await listOf(options, credential);
      if (isThere()) catalogue.set(credential.name, list);
    } catch (thrown) {
      error = thrown as Error;
    }
    if (!isThere()) return;
    dueAt.set(place, clock.monotonic() + (error ? RETRY_MS : FRESH_MS));
    onAnswer(credential, error);
  }

  const isDue = (credential: Credential): boolean => (dueAt.get(placeOf(credential)) ?? -Infinity) <= clock.monotonic();

  function refresh(): Promise<void> {
    round ??= Promise.allSettled(asked().filter(isDue).map(ask)).then(() => {
      round = undefined;
      sweep();
      hasAsked = true;
    });
    return round;
  }

  return {
    get asked() {
      return asked();
    },
    refresh,
    ensure() {
      if (!asked().some(isDue)) return undefined;
      const pending = refresh();
      return hasAsked ? undefined : pending;
    },
  };
}

async function listOf({ transport, clock }: DiscoveryOptions, credential: Credential): Promise<Iterable<ListedModel>> {
  const row = rowOf(credential);
  if (row.paths.models === undefined) return (row.models ?? []).map((id) => ({ id, created: null, ownedBy: null }));
  const question = { credential, to: "models", body: null, timeoutMs: TIMEOUT_MS, maxBytes: MAX_LIST_BYTES } as const;
  const { status, body } = await askProvider(transport, clock, question);
  if (status !== 200) {
    const why = status === 401 || status === 403 ? ": the key is not accepted" : "";
    throw new Error(`the provider answers with status ${status}${why}`);
  }
  const data = dataOf(body.toString());
  if (!data) throw new Error("the provider's answer is not a list of models");
  return readModels(data);
}

/** Without the parser's own complaint, which quotes what it could not read. */
function dataOf(text: string): readonly unknown[] | null {
  try {
    const body = fieldsOf(JSON.parse(text));
    const data = body?.data ?? body?.models;
    return Array.isArray(data) ? data : null;
  } catch {
    return null;
  }
}

function* readModels(data: readonly unknown[]): Generator<ListedModel> {
  for (const item of data) {
    const { id: plain, name, created, created_at: createdAt, owned_by: ownedBy } = fieldsOf(item) ?? {};
    // Gemini's are named by their paths, and Anthropic's have dates.
    const id = plain ?? (typeof name === "string" ? name.replace(/^models\//, "") : name);
    const seconds = created ?? (typeof createdAt === "string" ? Math.floor(Date.parse(createdAt.slice(0, 40)) / 1_000) : undefined);
    if (typeof id !== "string" || !LABEL.test(id)) continue;
    yield {
      id,
      created: typeof seconds === "number" && Number.isSafeInteger(seconds) && seconds >= 0 ? seconds : null,
      ownedBy: typeof ownedBy === "string" && LABEL.test(ownedBy) ? ownedBy : null,
    };
  }
}
