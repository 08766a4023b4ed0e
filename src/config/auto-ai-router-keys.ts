/** What becomes of each key of an auto_ai_router file: an option of ours, or a warning that says what does its work here. */
import { isBanCode } from "../options/fail2ban.ts";
import { acceptKey, parseDuration } from "../options/values.ts";

export interface Say {
  warn(message: string): void;
  refuse(message: string): void;
}

/** Makes our value. What it cannot read it leaves as it is, for the option's own check to name; undefined = the default stands. */
export type Convert = (value: unknown, say: Say) => unknown;

/** `to` is a path of ours; in lists from the item on. */
export type Rule = { readonly to: string; readonly as: Convert } | { readonly instead: string };
export type Rules = Readonly<Record<string, Rule>>;

/** The most attempts that we make after the first. */
const MAX_RETRIES = 10;
const MB = 1_048_576;
const NUMBER = /^-?\d+(?:\.\d+)?$/;

/** Variables hold text, and any value there could come from one. */
const number = (value: unknown): unknown => (typeof value === "string" && NUMBER.test(value.trim()) ? Number(value) : value);

const text = (value: unknown): unknown => (value === "" ? undefined : typeof value === "number" ? String(value) : value);

/** Go's spellings. */
export const flag = (value: unknown): unknown => {
  if (typeof value !== "string") return value;
  if (/^(?:true|t|1)$/i.test(value.trim())) return true;
  return /^(?:false|f|0)$/i.test(value.trim()) ? false : value;
};

const numbers: Convert = (value) => {
  if (!Array.isArray(value)) return value;
  return value.length === 0 ? undefined : value.map(number);
};

/** Without those that say nothing about a credential. */
const banCodes: Convert = (value, say) => {
  const codes = numbers(value, say);
  if (!Array.isArray(codes)) return codes;
  const kept = codes.filter((code) => typeof code !== "number" || isBanCode(code));
  if (kept.length < codes.length) {
    const left = codes.filter((code) => !kept.includes(code)).join(", ");
    say.warn(`${left} left out: they say that the request is wrong, which any client can bring about`);
  }
  return kept.length === 0 ? undefined : kept;
};

const zeroIsUnlimited: Convert = (value) => (number(value) === 0 ? -1 : number(value));

const zeroIsAbsent: Convert = (value) => (number(value) === 0 ? undefined : number(value));

const megabytes: Convert = (value, say) => {
  const amount = number(value);
  if (typeof amount === "number" && amount > 0) return Math.round(amount * MB);
  return say.refuse("expected a number of megabytes, more than 0");
};

const GO_UNITS_MS: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, μs: 1e-3 };

/** Go also writes parts of a millisecond, and a bare 0. */
function goDurationMs(value: unknown): number | null {
  const written = typeof value === "string" ? value.trim().replace(/^\+/, "") : value;
  if (written === 0 || written === "0") return 0;
  if (typeof written !== "string") return null;
  const tiny = /^(\d+(?:\.\d+)?)(ns|us|µs|μs)$/.exec(written);
  return tiny ? Math.ceil(Number(tiny[1]) * (GO_UNITS_MS[tiny[2] as string] as number)) : parseDuration(written);
}

/** What neither program can read is left as it is. A bare number is ms here, and whoever wrote it there meant something else. */
const duration = (value: unknown, say: Say): unknown =>
  typeof value === "number" && value !== 0 ? say.refuse("needs a unit, as there: 60s, 5m") : (goDurationMs(value) ?? value);

const timeout: Convert = (value, say) =>
  goDurationMs(value) === 0 ? say.warn("0 was no limit there; here the default stands") : duration(value, say);

/** There 0 was for ever, and nothing at all too. */
const banTime: Convert = (value, say) => {
  if (value === "") return undefined;
  return goDurationMs(value) === 0 ? "permanent" : duration(value, say);
};

/** A rule whose duration cannot be read takes the common one, as there. */
const ruleBanTime: Convert = (value, say) => {
  if (value === "" || value === "permanent" || goDurationMs(value) !== null) return banTime(value, say);
  return say.warn("is no duration, so fail2ban.ban_duration holds for this code too");
};

const retries: Convert = (value, say) => {
  const count = number(value);
  if (typeof count !== "number" || count <= MAX_RETRIES) return count;
  say.warn(`${MAX_RETRIES} is the most here`);
  return MAX_RETRIES;
};

const masterKey: Convert = (value, say) => {
  if (typeof value !== "string" && typeof value !== "number") return value;
  const { key, problem } = acceptKey(String(value));
  if (problem !== null) say.warn(`${problem} (accepted, because this file worked with it)`);
  return key;
};

const prometheus: Convert = (value, say) => {
  const enabled = flag(value);
  if (enabled === true) say.warn("beyond a loopback address /metrics asks for the management key here (QUOTAGUARD_MANAGEMENT_KEY)");
  return enabled;
};

function safeName(name: string): string {
  const safe = name
    .replace(/[^A-Za-z0-9._-]+/g, "_")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 64);
  return safe === "" && name !== "" ? "credential" : safe;
}

/** What each is called here: names stand in metrics, logs and paths, where not every character may. Different ones stay different. */
export function safeNames(names: readonly string[]): ReadonlyMap<string, string> {
  const safe = new Map<string, string>();
  const taken = new Set(names.filter((name) => safeName(name) === name));
  for (const name of names) {
    if (safe.has(name)) continue;
    const wanted = safeName(name);
    let chosen = wanted;
    for (let count = 2; chosen !== name && taken.has(chosen); count += 1) chosen = `${wanted.slice(0, 58)}-${count}`;
    taken.add(chosen);
    safe.set(name, chosen);
  }
  return safe;
}

const PROVIDERS: Readonly<Record<string, string>> = {
  openai: "openai",
  proxy: "openai-compatible",
  anthropic: "anthropic",
  gemini: "gemini",
  "vertex-ai": "vertex-ai",
};

const provider: Convert = (value) => (hasProvider(value) ? PROVIDERS[String(value)] : value);

const hasProvider = (type: unknown): boolean => Object.hasOwn(PROVIDERS, String(type));

const requestsPerMinute: Convert = (value, say) => {
  const rpm = number(value);
  return rpm === 0 ? say.refuse("must not be 0, as there; use -1 for unlimited, or remove the credential") : rpm;
};

const modelRpm: Convert = (value, say) => {
  const rpm = number(value);
  if (rpm === 0) say.warn("0 blocks this model, as there; -1 is unlimited, and without rpm the default holds");
  return rpm;
};

const POOLED = { instead: "not needed: connections to providers are pooled and closed by themselves" };
const LOGGED = { instead: "not needed: every request is in the ledger, faults are in the server's log, and bodies are never written" };
const VERTEX = { instead: "ignored: it is for vertex-ai" };

const SERVER: Rules = {
  port: { to: "server.port", as: number },
  max_body_size_mb: { to: "server.bodyLimit", as: megabytes },
  request_timeout: { to: "server.requestTimeout", as: timeout },
  logging_level: { to: "server.loggingLevel", as: text },
  master_key: { to: "server.masterKey", as: masterKey },
  default_models_rpm: { to: "server.defaultModelsRpm", as: zeroIsUnlimited },
  replace_v1_models: { to: "server.replaceV1Models", as: flag },
  max_provider_retries: { to: "resilience.maxRetries", as: retries },
  response_body_multiplier: { instead: "not needed: streams pass at any length, and whole answers have a bound of their own" },
  write_timeout: { instead: "not needed: an answer may last as long as its bytes keep coming (resilience.idle_timeout)" },
  idle_timeout: { instead: "not needed: idle connections of clients are closed by the server itself" },
  idle_conn_timeout: POOLED,
  max_idle_conns: POOLED,
  max_idle_conns_per_host: POOLED,
  model_prices_link: { instead: "not read: prices stand at the models here (models[].price)" },
};

const FAIL2BAN: Rules = {
  max_attempts: { to: "fail2ban.maxAttempts", as: number },
  ban_duration: { to: "fail2ban.banDuration", as: banTime },
  error_codes: { to: "fail2ban.errorCodes", as: banCodes },
};

const MONITORING: Rules = {
  prometheus_enabled: { to: "monitoring.prometheusEnabled", as: prometheus },
  log_errors: LOGGED,
  errors_log_path: LOGGED,
};

const CREDENTIAL: Rules = {
  name: { to: "name", as: text },
  type: { to: "provider", as: provider },
  api_key: { to: "apiKey", as: text },
  base_url: { to: "baseUrl", as: text },
  rpm: { to: "rpm", as: requestsPerMinute },
  tpm: { to: "tpm", as: zeroIsUnlimited },
  is_fallback: { to: "isFallback", as: flag },
  project_id: VERTEX,
  location: VERTEX,
  credentials_file: VERTEX,
  credentials_json: VERTEX,
};

export const VERTEX_CREDENTIAL: Rules = {
  ...CREDENTIAL,
  project_id: { to: "project", as: text },
  location: { to: "location", as: text },
  credentials_file: { to: "serviceAccount", as: text },
  credentials_json: { to: "serviceAccount", as: text },
};

const MODEL: Rules = {
  name: { to: "name", as: text },
  model: { to: "model", as: text },
  credential: { to: "credential", as: text },
  rpm: { to: "rpm", as: modelRpm },
  tpm: { to: "tpm", as: zeroIsUnlimited },
};

export const BAN_RULE: Rules = {
  code: { to: "code", as: number },
  max_attempts: { to: "maxAttempts", as: zeroIsAbsent },
  ban_duration: { to: "banDuration", as: ruleBanTime },
};

/** By section; of lists, those of an item. */
export const KEYS = { server: SERVER, fail2ban: FAIL2BAN, monitoring: MONITORING, credentials: CREDENTIAL, models: MODEL } as const;

/** A credential of a provider that we do not have is refused for that alone. */
export function withoutForeignKeys(credential: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  if (credential.type === undefined || hasProvider(credential.type)) return credential;
  return Object.fromEntries(Object.entries(credential).filter(([key]) => CREDENTIAL[key] !== VERTEX));
}
