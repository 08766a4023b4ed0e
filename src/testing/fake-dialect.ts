import { compose, type Composed, type FakeAnswer, type FakeOperation } from "./fake-answers.ts";
import type { TokenCount } from "./truth-log.ts";

type Json = Readonly<Record<string, unknown>>;

/** One operation that the fake upstream can answer. */
export interface FakeRoute {
  /** How its path ends. */
  readonly suffix: string;
  readonly compose: (body: Json, answer: FakeAnswer, serial: number, createdS: number) => Composed;
  /** Whether this request asks for a stream. */
  readonly isStream: (body: Json) => boolean;
}

/** How a provider of one wire format speaks. Another format is another row of {@link FAKE_DIALECTS}. */
export interface FakeDialect {
  readonly routes: readonly FakeRoute[];
  readonly error: (status: number, serial: number, message?: string) => Json;
  /** The tokens that an answer or an event tells, as totals; null = it tells none. */
  readonly told: (json: Json) => TokenCount | null;
}

const ERROR_TYPES: Readonly<Record<number, readonly [type: string, code: string | null]>> = {
  400: ["invalid_request_error", null],
  401: ["invalid_request_error", "invalid_api_key"],
  403: ["invalid_request_error", "unsupported_country_region_territory"],
  404: ["invalid_request_error", "model_not_found"],
  413: ["invalid_request_error", null],
  429: ["requests", "rate_limit_exceeded"],
};

function openaiError(status: number, serial: number, message = `scripted answer ${status} to request ${serial}`): Json {
  const [type, code] = ERROR_TYPES[status] ?? ["server_error", null];
  return { error: { message, type, param: null, code } };
}

const isCount = (value: unknown): value is number => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

function openaiTold({ usage }: Json): TokenCount | null {
  if (typeof usage !== "object" || usage === null) return null;
  const { prompt_tokens: inputTokens, completion_tokens: outputTokens = 0 } = usage as Json;
  return isCount(inputTokens) && isCount(outputTokens) ? { inputTokens, outputTokens } : null;
}

const openaiRoute = (suffix: string, operation: FakeOperation): FakeRoute => ({
  suffix,
  compose: (body, answer, serial, createdS) => compose(operation, body, answer, serial, createdS),
  isStream: ({ stream }) => operation !== "embeddings" && stream === true,
});

const openai: FakeDialect = {
  // The longer suffix first: one ends in the other.
  routes: [openaiRoute("/chat/completions", "chat"), openaiRoute("/completions", "completions"), openaiRoute("/embeddings", "embeddings")],
  error: openaiError,
  told: openaiTold,
};

/** The first row also speaks for requests of no dialect: lists of models, unknown paths. */
export const FAKE_DIALECTS: readonly [FakeDialect, ...FakeDialect[]] = [openai];

/** The dialect and the operation of a path; null = nobody's. */
export function fakeRouteOf(path: string): { readonly dialect: FakeDialect; readonly route: FakeRoute } | null {
  const [bare = ""] = path.split("?", 1);
  for (const dialect of FAKE_DIALECTS) {
    const route = dialect.routes.find(({ suffix }) => bare.endsWith(suffix));
    if (route) return { dialect, route };
  }
  return null;
}
