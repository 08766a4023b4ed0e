/**
 * What a client may ask for: the configured names together with what each provider lists. One failing provider never empties the list, and asking it
 * delays nobody but the very first.
 */
import type { Answer } from "../core/answer.ts";
import type { DialectId } from "../core/call.ts";
import type { Context } from "../core/context.ts";
import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { Step } from "../core/step.ts";
import { andThen, type Clock } from "../core/time.ts";
import { callerDialect, matchPath, matchSuffix } from "../dialects/index.ts";
import { modelListing, type ListingOptions, type OfferedModel } from "../pool/listing.ts";
import { matchesAny } from "../pool/patterns.ts";
import type { Transport } from "../upstream/transport.ts";
import { modelDiscovery, type DiscoveryOptions } from "./models/discovery.ts";
import { SHAPES, type ShownModel } from "./models/shapes.ts";

/** What the pool goes by; its catalogue is filled here. */
export interface ModelsOptions extends ListingOptions {
  /** Those whose providers may be asked now. Default: all. */
  readonly asked?: Iterable<Credential>;
  readonly transport: Transport;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface ModelsStep extends Step {
  /** Asks the providers whose lists are not fresh, so that the first request need not. Never rejects; takes a few seconds at most. */
  refresh(): Promise<void>;
}

/** Answers `GET /v1/models` and `GET /v1/models/{id}` in the shape of the caller's dialect. */
export function modelsStep(options: ModelsOptions): ModelsStep {
  const { offers, catalogue, transport, clock, logger } = options;
  const { all, find } = modelListing(options);
  const { ensure, refresh } = modelDiscovery({
    credentials: options.asked ?? offers.credentials,
    catalogue,
    transport,
    clock,
    onAnswer: reportTo(logger),
  });
  const startedAt = Math.floor(clock.now() / 1_000);
  const dated = ({ id, created, ownedBy }: OfferedModel): ShownModel => ({ id, created: created ?? startedAt, ownedBy });

  function answer(ctx: Context): Answer {
    const allowed = ctx.principal?.models;
    const { dialect, id } = askedOf(ctx);
    const { one, many } = SHAPES[dialect];
    if (id === null) {
      const visible = [...all().values()].filter((model) => !allowed || matchesAny(allowed, model.id));
      return json(many(visible.map((model) => one(dated(model)))));
    }
    // A key may use a model by the name it asks for, or by the one that stands for.
    const found = !allowed || matchesAny(allowed, id) || matchesAny(allowed, offers.resolve(id)) ? find(id) : null;
    if (!found) throw noSuchModel();
    return json(one(dated(found)));
  }

  return Object.assign(
    function models(ctx: Context) {
      return andThen(ensure(), () => answer(ctx));
    },
    { refresh },
  );
}

/** The id in the path: model names may hold slashes, and even `/models/`. The host may have its own prefix before it. */
const MODEL_PATH = /^(?:.*?\/v1(?:beta)?|.*?)\/models\/(.+)$/s;

/** In which dialect, and which one; null = all. */
function askedOf({ path, headers }: Context): { readonly dialect: DialectId; readonly id: string | null } {
  const matched = matchPath(path, true, headers) ?? matchSuffix(path, headers);
  const id = MODEL_PATH.exec(path)?.[1] ?? null;
  try {
    return { dialect: callerDialect(matched, path, headers), id: id === null ? null : decodeURIComponent(id) };
  } catch {
    throw noSuchModel();
  }
}

const noSuchModel = (): GuardError =>
  new GuardError("model_not_found", "there is no such model; GET /v1/models lists what is offered", { status: 404, param: "model" });

const json = (body: unknown): Answer => ({
  status: 200,
  headers: ["content-type", "application/json; charset=utf-8"],
  body: Buffer.from(JSON.stringify(body)),
});

/** One line when a provider begins to fail, one when it answers again: it is asked for as long as the gateway runs. */
function reportTo(logger: Logger): DiscoveryOptions["onAnswer"] {
  const failing = new Set<string>();
  return (credential, error) => {
    const { name } = credential;
    if (error === null) {
      if (failing.delete(name)) logger.info({ credential: name }, "the provider's model list can be read again");
    } else if (!failing.has(name)) {
      failing.add(name);
      logger.warn({ err: error, credential: name }, "the provider's model list could not be read; the last good one is used");
    }
  };
}
