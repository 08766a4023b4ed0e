/** Every refusal the library can make, its HTTP status, and the one error class that carries it. */

const STATUS = {
  unauthenticated: 401,
  forbidden: 403,
  model_not_allowed: 403,
  banned: 403,
  body_invalid: 400,
  auth_conflict: 400,
  scope_invalid: 400,
  model_not_found: 400,
  budget_too_small: 400,
  model_not_priced: 400,
  not_found: 404,
  method_not_allowed: 405,
  body_too_large: 413,
  unsupported_encoding: 415,
  budget_exhausted: 429,
  all_credentials_limited: 429,
  idempotency_in_progress: 409,
  idempotency_mismatch: 422,
  untranslatable: 422,
  no_credential: 503,
  store_unavailable: 503,
  overloaded: 503,
  upstream_unreachable: 502,
  upstream_protocol: 502,
  upstream_timeout: 504,
  upstream_refused: 502,
  internal: 500,
  plugin_failed: 500,
} as const;

export type ErrorCode = keyof typeof STATUS;

const MARK = Symbol.for("quotaguard.error");

export interface GuardErrorDetails {
  /** Replaces the code's own status: `upstream_refused` carries the upstream's, a model list's unknown id is 404. */
  readonly status?: number | undefined;
  /** The request field that is at fault. */
  readonly param?: string;
  readonly limit?: string;
  readonly scope?: string;
  /** What the request needed and what was left, in the limit's own unit (USD for money). */
  readonly needed?: number;
  readonly available?: number;
  /** How long until the same request can pass. Absent = waiting does not help. */
  readonly retryAfterMs?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly requestId?: string;
  /** Logged, never sent. */
  readonly cause?: unknown;
}

/** A refusal. `message` is written for the caller: what was wrong and what to do next; it never holds a secret. */
export class GuardError extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly statusCode: number;
  /** Whether the message may be shown to the caller (Express and Koa read this). */
  readonly expose = true;
  readonly headers: Record<string, string>;
  readonly param: string | undefined;
  readonly limit: string | undefined;
  readonly scope: string | undefined;
  readonly needed: number | undefined;
  readonly available: number | undefined;
  readonly retryAfterMs: number | undefined;
  requestId: string | undefined;

  constructor(code: ErrorCode, message: string, details: GuardErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "GuardError";
    this.code = code;
    this.status = details.status ?? STATUS[code];
    this.statusCode = this.status;
    this.headers = { ...details.headers };
    this.param = details.param;
    this.limit = details.limit;
    this.scope = details.scope;
    this.needed = details.needed;
    this.available = details.available;
    this.retryAfterMs = details.retryAfterMs;
    this.requestId = details.requestId;
    Object.defineProperty(this, MARK, { value: true });
  }

  /** True for a GuardError of any installed copy of this package. */
  static is(value: unknown): value is GuardError {
    return typeof value === "object" && value !== null && (value as Record<symbol, unknown>)[MARK] === true;
  }

  /**
   * Finds our refusal inside whatever an SDK threw: the error itself, its `cause`, the last try's, or the body that the OpenAI and Anthropic clients keep in
   * `error`, Google's in `message` and Vercel's AI SDK in `responseBody`. Undefined when the failure was not ours.
   */
  static from(thrown: unknown): GuardError | undefined {
    for (let value = thrown, depth = 0; typeof value === "object" && value !== null && depth < 8; depth += 1) {
      if (GuardError.is(value)) return value;
      const { error, status, responseBody, statusCode, message, cause, lastError } = value as Readonly<Record<string, unknown>>;
      const found =
        fromBody(error, numberOf(status)) ?? fromBody(parsed(responseBody), numberOf(statusCode)) ?? fromBody(parsed(message), numberOf(status));
      if (found) return found;
      value = cause ?? lastError;
    }
    return undefined;
  }

  /** The facts that may be shown: no cause, no stack. */
  toJSON(): Record<string, unknown> {
    const { code, message, status, param, limit, scope, needed, available, retryAfterMs, requestId } = this;
    return { code, message, status, param, limit, scope, needed, available, retryAfterMs, requestId };
  }
}

function parsed(text: unknown): unknown {
  if (typeof text !== "string" || !text.startsWith("{")) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function fromBody(body: unknown, status: number | undefined): GuardError | undefined {
  if (typeof body !== "object" || body === null) return undefined;
  const inner = (body as { error?: unknown }).error ?? body;
  if (typeof inner !== "object" || inner === null) return undefined;
  const fields: Readonly<Record<string, unknown>> = {
    request_id: (body as { request_id?: unknown }).request_id,
    ...(ourDetail(inner) ?? (inner as Record<string, unknown>)),
  };
  // Both are in every body that we render and in none of a provider's, so a provider's own code is not taken for ours.
  if (typeof fields.code !== "string" || !Object.hasOwn(STATUS, fields.code) || typeof fields.request_id !== "string") return undefined;
  return new GuardError(fields.code as ErrorCode, textOf(fields.message) ?? fields.code, {
    status: numberOf(fields.status) ?? status,
    param: textOf(fields.param),
    limit: textOf(fields.limit),
    scope: textOf(fields.scope),
    needed: numberOf(fields.needed),
    available: numberOf(fields.available),
    retryAfterMs: numberOf(fields.retry_after_ms),
    requestId: fields.request_id,
  });
}

/** What Google's envelope has no place for stands in its details, as texts. */
function ourDetail(error: object): Readonly<Record<string, unknown>> | undefined {
  const { details, message, code: status } = error as Readonly<Record<string, unknown>>;
  if (!Array.isArray(details)) return undefined;
  for (const detail of details as readonly unknown[]) {
    const { domain, reason, metadata } = (detail ?? {}) as Readonly<Record<string, unknown>>;
    if (domain !== "quotaguard" || typeof reason !== "string" || typeof metadata !== "object" || metadata === null) continue;
    const told = Object.fromEntries(
      Object.entries(metadata as Readonly<Record<string, unknown>>).map(([name, value]) => [name, FIGURES.has(name) ? Number(value) : value]),
    );
    return { ...told, code: reason.toLowerCase(), message, status };
  }
  return undefined;
}

const FIGURES: ReadonlySet<string> = new Set(["needed", "available", "retry_after_ms"]);

const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);
const numberOf = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined);

/** A mistake in options or config: thrown at start-up, never during a request. Each line of `problems` names an option. */
export class ConfigError extends Error {
  readonly code = "config_invalid";
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(
      problems.length === 1 ? problems[0] : `${problems.length} problems in the configuration:\n${problems.map((line) => `  - ${line}`).join("\n")}`,
    );
    this.name = "ConfigError";
    this.problems = problems;
  }
}
