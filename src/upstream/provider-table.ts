/** The providers that one guard knows: the built-in rows, and those that plugins bring. */
import type { DialectId, Family } from "../core/call.ts";
import { ConfigError } from "../core/errors.ts";
import { hint } from "../core/nearest.ts";
import { isQuotaMeasure } from "../core/quota-fact.ts";
import type { ProviderDefinition, ProviderRow, Verdict } from "../core/provider.ts";
import { isPromise, type MaybePromise } from "../core/time.ts";
import { checkBaseUrl } from "./egress.ts";
import { PROVIDER_IDS, providerRow } from "./providers.ts";

/** More than anybody has. */
const MAX_ROWS = 1_000;

export interface ProviderTable {
  readonly ids: readonly string[];
  find(id: string): ProviderRow | undefined;
  /**
   * Adds a row that extends another. Throws ConfigError that names the member at fault, and the nearest right one. `failed` is told when a function of
   * the row throws or answers what it must not, while a request is served: then the extended row's own is asked.
   */
  add(definition: ProviderDefinition, failed: RowFailure): void;
}

/** Never throws. */
export type RowFailure = (member: string, error: unknown) => void;

const ID = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const HEADER_VALUE = /^[\t\x20-\x7e]*$/;
const MODEL = /^\P{Cc}{1,256}$/u;
const FAMILIES = ["openai", "anthropic", "gemini"] as const satisfies readonly Family[];
const MAX_READINGS = 32;
const HEADER = /^[a-z0-9][a-z0-9-]{0,63}$/;
/** Plain parts, none of which begins with a dot: no escapes, queries or ways up. `{model}` stands for the model. */
const PATH = /^(?:\/(?:[A-Za-z0-9_~:@-]|\{model\})(?:[A-Za-z0-9._~:@-]|\{model\})*)+$/;
const CAP_FIELDS = ["max_tokens", "max_completion_tokens"] as const satisfies readonly ProviderRow["capField"][];
const FUNCTIONS = [
  "authorize",
  "classify",
  "retryAfterMs",
  "adapt",
  "unwrap",
  "requestHeaders",
  "quotas",
  "faultQuotas",
] as const satisfies readonly (keyof ProviderRow)[];

const MEMBERS = ["paths", "baseUrl", "dialect", "capField", "forwardedHeaders", "models", "streamsOnly", "family", ...FUNCTIONS];

const DIALECTS = ["openai", "responses", "anthropic", "gemini"] as const satisfies readonly DialectId[];
/** An example of each operation's path. */
const OPERATIONS: ProviderRow["paths"] = {
  chat: "/v1/chat",
  stream: "/v1/chat/stream",
  completions: "/v1/completions",
  embeddings: "/v1/embeddings",
  count_tokens: "/v1/count_tokens",
  models: "/v1/models",
};

type Members = Readonly<Record<string, unknown>>;

export function providerTable(): ProviderTable {
  const rows = new Map<string, ProviderRow>(PROVIDER_IDS.map((id) => [id, providerRow(id)]));

  return {
    get ids() {
      return [...rows.keys()];
    },
    find: (id) => rows.get(id),
    add(definition, failed) {
      const { id, extends: extended, ...own } = definition;
      const what = `provider ${typeof id === "string" ? id.slice(0, 64) : ""}`.trimEnd();
      const problems: string[] = [];
      if (typeof id !== "string" || !ID.test(id)) problems.push("id: must be 1 to 64 characters of a-z 0-9 . _ - and start with a letter or digit");
      else if (rows.has(id)) problems.push("id: there is a provider of this id already; give this one another");
      const base = typeof extended === "string" ? rows.get(extended) : undefined;
      if (!base) {
        const near = typeof extended === "string" ? hint(extended, rows.keys()) : "";
        problems.push(`extends: expected one of ${[...rows.keys()].join(", ")}${near}`);
      }
      const pattern = base ?? providerRow("openai-compatible");
      problems.push(...memberProblems(own, pattern));
      if (rows.size >= MAX_ROWS) problems.push(`there are ${MAX_ROWS} providers already`);
      if (problems.length > 0) throw new ConfigError(problems.map((problem) => `${what}: ${problem}`));
      // What the extended row says of paths and models is of its own dialect.
      const { also: _also, family: _family, ...plain } = pattern;
      const [known, paths] = isOther(own, pattern) ? [plain, {}] : [pattern, pattern.paths];
      const row = { ...known, ...defined(own), id, paths: Object.freeze({ ...paths, ...defined(own.paths ?? {}) }) };
      rows.set(id, Object.freeze({ ...row, ...believed(row, pattern, failed) }));
    },
  };
}

/** What stands between a row's own functions and the request that they serve. */
function believed(row: ProviderRow, base: ProviderRow, failed: RowFailure): Partial<ProviderRow> {
  function asked<T>(member: string, own: () => T, isRight: (answer: T) => boolean, other: () => T): T {
    try {
      const answer = own();
      if (isRight(answer)) return answer;
      throw new TypeError(`${member} of provider ${row.id} returned what it must not`);
    } catch (error) {
      failed(member, error);
      return other();
    }
  }
  return {
    authorize(headers, credential) {
      const done = row.authorize(headers, credential) as MaybePromise<unknown>;
      if (!isPromise(done)) return;
      done.then(undefined, () => undefined);
      throw new TypeError(`authorize of provider ${row.id} must be synchronous; a refresher is where a token is fetched`);
    },
    classify: (...said) =>
      asked(
        "classify",
        () => row.classify(...said),
        isVerdict,
        () => base.classify(...said),
      ),
    retryAfterMs: (...said) =>
      asked(
        "retryAfterMs",
        () => row.retryAfterMs(...said),
        isWait,
        () => base.retryAfterMs(...said),
      ),
    ...optional("adapt", isFields, (body) => body),
    ...optional("unwrap", isFields, (body) => body),
    ...optional("requestHeaders", isHeaders, () => ({})),
    ...optional("quotas", isReadings, () => []),
    ...optional("faultQuotas", isReadings, () => []),
  };

  /** A member that rows need not have: where the extended row has none either, `nothing` is done. */
  function optional<const Name extends OptionalFunction>(
    member: Name,
    isRight: (answer: unknown) => boolean,
    nothing: NonNullable<ProviderRow[Name]>,
  ): Partial<ProviderRow> {
    const own = row[member] as AnyFunction | undefined;
    const other = (base[member] ?? nothing) as AnyFunction;
    if (!own) return {};
    const believedOwn: AnyFunction = (...said) =>
      asked<unknown>(
        member,
        () => own.apply(row, said),
        isRight,
        () => other.apply(base, said),
      );
    return { [member]: believedOwn };
  }
}

type OptionalFunction = "adapt" | "unwrap" | "requestHeaders" | "quotas" | "faultQuotas";
type AnyFunction = (...said: unknown[]) => unknown;

const isFields = (value: unknown): boolean => typeof value === "object" && value !== null && !Array.isArray(value) && !isPromise(value);

const isHeaders = (value: unknown): boolean =>
  isFields(value) &&
  Object.entries(value as object).every(
    ([name, text]: readonly [string, unknown]) => HEADER.test(name) && typeof text === "string" && HEADER_VALUE.test(text),
  );

const isReadings = (value: unknown): boolean => Array.isArray(value) && value.length <= MAX_READINGS && value.every(isQuotaMeasure);

const FAULTS: readonly unknown[] = ["request", "credential", "capacity"];

const isWait = (value: unknown): boolean => value === null || (typeof value === "number" && value >= 0 && Number.isFinite(value));

function isVerdict(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const { fault, isAccountWide, waitMs } = value as Partial<Record<keyof Verdict, unknown>>;
  return FAULTS.includes(fault) && typeof isAccountWide === "boolean" && isWait(waitMs);
}

const defined = (members: Members): Members => Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));

function memberProblems(own: Members, pattern: ProviderRow): readonly string[] {
  return Object.entries(own).flatMap(([name, value]): readonly string[] => {
    if (value === undefined) return [];
    switch (name) {
      case "paths":
        return pathProblems(value, isOther(own, pattern) ? OPERATIONS : pattern.paths);
      case "baseUrl":
        return value === null ? [] : urlProblems(value);
      case "dialect":
        if (!(DIALECTS as readonly unknown[]).includes(value)) return [`dialect: expected one of ${DIALECTS.join(", ")}`];
        if (value === pattern.dialect || typeof (own.paths as Members | undefined)?.chat === "string") return [];
        return [`paths.chat: is needed, because the paths of ${pattern.id} are those of another dialect`];
      case "capField":
        return (CAP_FIELDS as readonly unknown[]).includes(value) ? [] : [`capField: expected one of ${CAP_FIELDS.join(", ")}`];
      case "forwardedHeaders": {
        const isList = Array.isArray(value) && value.every((header) => typeof header === "string" && HEADER.test(header));
        return isList ? [] : ["forwardedHeaders: expected a list of header names in lower case"];
      }
      case "models": {
        const isList = Array.isArray(value) && value.every((model) => typeof model === "string" && MODEL.test(model));
        return isList ? [] : ["models: expected a list of names"];
      }
      case "streamsOnly":
        return value === true ? [] : ["streamsOnly: expected true"];
      case "family":
        return typeof value === "function" || (FAMILIES as readonly unknown[]).includes(value)
          ? []
          : [`family: expected one of ${FAMILIES.join(", ")}, or a function of the model`];
      default:
        if ((FUNCTIONS as readonly string[]).includes(name)) return typeof value === "function" ? [] : [`${name}: expected a function`];
        return [`${name}: is not a member of a provider${hint(name, MEMBERS)}`];
    }
  });
}

const isOther = (own: Members, pattern: ProviderRow): boolean => own.dialect !== undefined && own.dialect !== pattern.dialect;

function pathProblems(value: unknown, known: ProviderRow["paths"]): readonly string[] {
  if (typeof value !== "object" || value === null) return ["paths: expected an object of paths by operation"];
  return Object.entries(value).flatMap(([operation, path]: [string, unknown]): readonly string[] => {
    if (!Object.hasOwn(known, operation)) return [`paths.${operation.slice(0, 64)}: is not an operation${hint(operation, Object.keys(known))}`];
    if (path === undefined || (typeof path === "string" && PATH.test(path.replace("{model}", "model")))) return [];
    return [`paths.${operation}: expected a plain path such as ${known[operation as keyof typeof known]}`];
  });
}

function urlProblems(value: unknown): readonly string[] {
  try {
    if (typeof value !== "string") throw new Error("base_url must be text, or null where each credential says it");
    checkBaseUrl(value);
    return [];
  } catch (error) {
    return [`baseUrl: ${(error as Error).message.replace(/^base_url:? /, "")}`];
  }
}
