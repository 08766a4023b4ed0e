/**
 * What a client may ask for: the configured names together with what each provider lists. One failing provider never empties the list.
 */
import type { Answer } from "../core/answer.ts";
import type { Context } from "../core/context.ts";
import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { Step } from "../core/step.ts";
import type { Clock } from "../core/time.ts";
import { fieldsOf } from "../dialects/usage.ts";
import { matchesAny } from "../pool/patterns.ts";
import { askProvider } from "../upstream/ask.ts";
import type { Transport } from "../upstream/transport.ts";

const FRESH_MS = 5 * 60_000;
const TIMEOUT_MS = 5_000;
const MAX_LIST_BYTES = 4 * 1024 * 1024;
const MAX_MODELS = 10_000;

export interface ModelsOptions {
  readonly credentials: readonly Credential[];
  /** Names from config. */
  readonly names: readonly string[];
  readonly transport: Transport;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface ListedModel {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
}

/** Answers `GET /v1/models` and `GET /v1/models/{id}`. */
export function modelsStep(options: ModelsOptions): Step {
  const { credentials, clock, logger } = options;
  const literal = credentials.flatMap(({ models }) => (models ?? []).filter((pattern) => !pattern.includes("*")));
  const fixed = [...new Set([...options.names, ...literal])];
  const startedAt = Math.floor(clock.now() / 1_000);
  // Credentials whose models are all named need no asking.
  const asked = credentials.filter(({ models }) => models === null || models.some((pattern) => pattern.includes("*")));
  const lastGood = new Map<string, readonly ListedModel[]>();
  let fetchedAt = -Infinity;
  let refreshing: Promise<void> | undefined;

  async function refresh(): Promise<void> {
    await Promise.all(
      asked.map(async (credential) => {
        try {
          const listed = await fetchList(options, credential);
          const offered = credential.models;
          lastGood.set(credential.name, offered ? listed.filter(({ id }) => matchesAny(offered, id)) : listed);
        } catch (error) {
          logger.warn({ err: error, credential: credential.name }, "a provider's model list could not be read; its last good list is used");
        }
      }),
    );
    fetchedAt = clock.monotonic();
  }

  async function all(): Promise<readonly ListedModel[]> {
    if (asked.length > 0 && clock.monotonic() - fetchedAt > FRESH_MS) {
      refreshing ??= refresh().finally(() => {
        refreshing = undefined;
      });
      await refreshing;
    }
    const byId = new Map<string, ListedModel>();
    for (const id of fixed) byId.set(id, { id, object: "model", created: startedAt, owned_by: "quotaguard" });
    for (const list of lastGood.values()) for (const model of list) if (!byId.has(model.id)) byId.set(model.id, model);
    return [...byId.values()];
  }

  return async function models(ctx): Promise<Answer> {
    const allowed = ctx.principal?.models;
    const visible = (await all()).filter(({ id }) => !allowed || matchesAny(allowed, id));
    const id = idOf(ctx);
    if (id === null) return json({ object: "list", data: visible });
    const found = visible.find((model) => model.id === id);
    if (!found)
      throw new GuardError("model_not_found", "there is no such model; GET /v1/models lists what is offered", { status: 404, param: "model" });
    return json(found);
  };
}

/** The id in the path: model names may hold slashes. */
function idOf(ctx: Context): string | null {
  const at = ctx.path.lastIndexOf("/models/");
  if (at < 0) return null;
  try {
    return decodeURIComponent(ctx.path.slice(at + "/models/".length));
  } catch {
    throw new GuardError("model_not_found", "there is no such model; GET /v1/models lists what is offered", { status: 404, param: "model" });
  }
}

const json = (body: unknown): Answer => ({
  status: 200,
  headers: ["content-type", "application/json; charset=utf-8"],
  body: Buffer.from(JSON.stringify(body)),
});

async function fetchList({ transport, clock }: ModelsOptions, credential: Credential): Promise<readonly ListedModel[]> {
  const question = { credential, to: "models", body: null, timeoutMs: TIMEOUT_MS, maxBytes: MAX_LIST_BYTES } as const;
  const { status, body } = await askProvider(transport, clock, question);
  if (status !== 200) throw new Error(`status ${status}`);
  return parseList(body.toString());
}

function parseList(text: string): readonly ListedModel[] {
  const data = fieldsOf(JSON.parse(text))?.data;
  if (!Array.isArray(data)) throw new Error("the answer is not a model list");
  const models: ListedModel[] = [];
  for (const item of data.slice(0, MAX_MODELS)) {
    const fields = fieldsOf(item);
    if (typeof fields?.id !== "string") continue;
    const created = typeof fields.created === "number" ? fields.created : 0;
    models.push({ id: fields.id, object: "model", created, owned_by: typeof fields.owned_by === "string" ? fields.owned_by : "unknown" });
  }
  return models;
}
