/** A configuration of auto_ai_router is read as it is: recognised by its own keys, and translated key by key before anything is checked. */
import { hint } from "../core/nearest.ts";
import { isBanCode } from "../options/fail2ban.ts";
import { formatPath, nodeAt, type OptionNode, type OptionPath, type Problem } from "../options/tree.ts";
import { BAN_RULE, flag, KEYS, safeNames, VERTEX_CREDENTIAL, withoutForeignKeys, type Rules } from "./auto-ai-router-keys.ts";
import { isPlain, type Fields } from "./fields.ts";
import type { ConfigFile } from "./file.ts";
import { originLabel, type Origin, type Origins } from "./origin.ts";
import { toCamel, type FileOptions } from "./yaml.ts";

const SECTIONS: ReadonlySet<string> = new Set([...Object.keys(KEYS), "model_alias", "litellm_db"]);

const rulesOf = (credential: unknown): Rules => (isPlain(credential) && credential.type === "vertex-ai" ? VERTEX_CREDENTIAL : KEYS.credentials);

/** Words that somebody may also write into a file of ours by mistake, so that alone they prove nothing. */
const AMBIGUOUS: ReadonlySet<string> = new Set(["type", "idle_timeout"]);

/** There one timeout held for streams too, until they began; what ours give them is not made shorter. */
const FIRST_BYTE_MS = 120_000;

/** Where everything is data, so that names and values arrive as they are written. */
export const AS_WRITTEN: OptionNode = { options: new Map(), accepts: new Set(["null"]) };
AS_WRITTEN.item = AS_WRITTEN;
AS_WRITTEN.value = AS_WRITTEN;

export interface Likeness {
  /** It has keys that only files of auto_ai_router have, or what all of them have. */
  readonly isAlike: boolean;
  /** The first option that only ours have; null = none. */
  readonly ours: OptionPath | null;
}

/** Whose a file (read `AS_WRITTEN`) is. One in which both stand is ours, and wrong. */
export function likeAutoAiRouter(written: Fields, names: OptionNode): Likeness {
  let isTelling = Object.hasOwn(written, "litellm_db");
  let hasTypes = false;
  let ours: OptionPath | null = null;
  for (const [section, value] of Object.entries(written)) {
    if (!SECTIONS.has(section) && names.options.has(toCamel(section))) ours ??= [toCamel(section)];
    const rules: Rules | undefined = Object.hasOwn(KEYS, section) ? KEYS[section as keyof typeof KEYS] : undefined;
    const node = nodeAt(names, [section]);
    const options = (node?.item ?? node)?.options;
    for (const [index, row] of (rules ? [value].flat() : []).entries()) {
      for (const key of isPlain(row) ? Object.keys(row) : []) {
        const isTheirs = Object.hasOwn(rules as Rules, key) || key === "error_code_rules";
        const isOurs = options?.has(toCamel(key)) === true;
        if (isOurs && !isTheirs) ours ??= [section, ...(Array.isArray(value) ? [index] : []), toCamel(key)];
        if (isTheirs && !isOurs && !AMBIGUOUS.has(key)) isTelling = true;
        if (section === "credentials" && key === "type") hasTypes = true;
      }
    }
  }
  // There no file was accepted without a master key.
  const isAlike = isTelling || (hasTypes && isPlain(written.server) && Object.hasOwn(written.server, "master_key"));
  return { isAlike, ours };
}

export interface Translated extends FileOptions {
  readonly warnings: readonly string[];
}

/** The same configuration in our names. Every key arrives somewhere or is warned about; messages keep the file's own names and places. */
export function translateAutoAiRouter(file: ConfigFile, read: FileOptions, names: OptionNode): Translated {
  const into = new Translation(file, read, names);
  const { options: written } = read;
  into.warn(null, "is read as a configuration of auto_ai_router; with `version: 1` it would be read as one of quotaguard");
  into.assume(["server", "host"], "0.0.0.0");
  into.assume(["server", "port"], 8_080);
  into.assume(["server", "bodyLimit"], 100 * 1_048_576);
  into.section("server", written.server);
  into.section("monitoring", written.monitoring);
  into.credentials(written.credentials);
  into.bans(written.fail2ban);
  into.models(written.models, written.credentials);
  into.aliases(written.model_alias);
  into.database(written.litellm_db);
  for (const section of Object.keys(written)) if (!SECTIONS.has(section)) into.unknown([section]);
  return into.result();
}

/** The `models.yaml` beside such a file. `credentials` as the config file has them. */
export function translateModels(file: ConfigFile, read: FileOptions, names: OptionNode, credentials: unknown): Translated {
  const into = new Translation(file, read, names);
  into.models(read.options.models, credentials);
  for (const section of Object.keys(read.options)) if (section !== "models") into.unknown([section]);
  return into.result();
}

type Open = Record<string, unknown>;

class Translation {
  readonly options: Open = {};
  readonly #file: ConfigFile;
  readonly #written: Origins;
  readonly #names: OptionNode;
  readonly #origins: Origins = new Map();
  readonly #problems: (Problem & { readonly origin: Origin })[];
  readonly #warnings: string[] = [];

  constructor(file: ConfigFile, read: FileOptions, names: OptionNode) {
    this.#file = file;
    this.#written = read.origins;
    this.#names = names;
    this.#problems = read.problems.map((problem) => ({ ...problem, origin: named(problem.origin, nameOf(problem.path)) }));
  }

  result(): Translated {
    return { options: this.options, origins: this.#origins, problems: this.#problems, warnings: this.#warnings };
  }

  #place(at: OptionPath): Origin {
    return named(this.#written.get(nameOf(at)) ?? { kind: "file", file: this.#file.shown, line: 1, column: 1 }, nameOf(at));
  }

  /** `at` in the file's own names; null = the file as a whole. */
  warn(at: OptionPath | null, message: string): void {
    this.#warnings.push(at === null ? `${this.#file.shown}: ${message}` : `${originLabel(this.#place(at))}: ${nameOf(at)}: ${message}`);
  }

  unknown(at: OptionPath): void {
    this.warn(at, "unknown, and ignored as it was there");
  }

  /** Says that our option at `path` came from the file's `at`. */
  #came(path: OptionPath, at: OptionPath): void {
    this.#origins.set(formatPath(this.#names, path, "file"), this.#place(at));
  }

  /** What it did without being told. */
  assume(path: OptionPath, value: unknown): void {
    assign(this.options, path, value);
    this.#origins.set(formatPath(this.#names, path, "file"), { kind: "assumed", program: "auto_ai_router" });
  }

  /** One line a key: after a variable that is not set, its value means nothing. */
  #refuse(at: OptionPath, message: string): void {
    if (this.#problems.some(({ path }) => nameOf(path) === nameOf(at))) return;
    this.#problems.push({ path: at, message, origin: this.#place(at) });
  }

  /** What is of the wrong kind is left to the option's own check. */
  #asItIs(written: unknown, at: OptionPath, path: OptionPath): void {
    if (written === undefined || written === null) return;
    assign(this.options, path, written);
    this.#came(path, at);
  }

  section(name: "server" | "monitoring", written: unknown): void {
    if (!isPlain(written)) return this.#asItIs(written, [name], [name]);
    this.#fields(written, KEYS[name], [name], [], this.options);
    const { requestTimeout } = this.options.server as Open;
    if (name === "server" && typeof requestTimeout === "number" && requestTimeout > FIRST_BYTE_MS) {
      this.#asItIs(requestTimeout, ["server", "request_timeout"], ["resilience", "firstByteTimeout"]);
    }
  }

  #fields(written: Fields, rules: Rules, at: OptionPath, base: OptionPath, into: Open): void {
    for (const [key, value] of Object.entries(written)) {
      const here = [...at, key];
      const rule = Object.hasOwn(rules, key) ? rules[key] : undefined;
      if (value === null) continue;
      if (!rule) this.unknown(here);
      else if ("instead" in rule) {
        if (value !== "" && value !== false && value !== 0) this.warn(here, rule.instead);
      } else {
        const say = { warn: (message: string) => this.warn(here, message), refuse: (message: string) => this.#refuse(here, message) };
        const converted = rule.as(value, say);
        if (converted === undefined) continue;
        const path = rule.to.split(".");
        assign(into, path, converted);
        this.#came([...base, ...path], here);
      }
    }
  }

  #row(row: unknown, rules: Rules, at: OptionPath, path: OptionPath): unknown {
    this.#came(path, at);
    if (!isPlain(row)) return row;
    const into: Open = {};
    this.#fields(row, rules, at, path, into);
    return into;
  }

  credentials(written: unknown): void {
    if (!Array.isArray(written)) return this.#asItIs(written, ["credentials"], ["credentials"]);
    const safe = safeNames(credentialNames(written));
    this.options.credentials = written.map((row: unknown, index) => {
      const place = ["credentials", index];
      const credential = this.#row(isPlain(row) ? this.#credential(row, place, safe) : row, rulesOf(row), place, place);
      return isPlain(credential) ? { provider: "openai", ...credential } : credential;
    });
  }

  #credential(row: Fields, place: OptionPath, safe: ReadonlyMap<string, string>): Fields {
    const { name, type, api_key: key } = row;
    const called = safe.get(wordOf(name) ?? "");
    if (called !== undefined && called !== wordOf(name)) {
      this.warn([...place, "name"], `is called ${called} here: names are made of A-Z a-z 0-9 . _ -`);
    }
    if (type === "proxy" && (key === undefined || key === null || key === "")) {
      this.warn(
        place,
        "has no api_key, and a client's own is not sent on here as it was there; give it a key of the router behind it, if that asks for one",
      );
    }
    return withoutForeignKeys(called === undefined ? row : { ...row, name: called });
  }

  bans(written: unknown): void {
    if (written === undefined || written === null) {
      const before = "auto_ai_router banned a credential for good after three 429";
      return this.warn(null, `fail2ban: not there, so nobody is banned (${before}); write the section to have bans`);
    }
    if (!isPlain(written)) return this.#asItIs(written, ["fail2ban"], ["fail2ban"]);
    const { error_code_rules: rules, ...fields } = written;
    this.#came(["fail2ban"], ["fail2ban"]);
    this.assume(["fail2ban", "clients"], false);
    this.assume(["fail2ban", "errorCodes"], [429]);
    this.#fields(fields, KEYS.fail2ban, ["fail2ban"], [], this.options);
    const at = ["fail2ban", "error_code_rules"];
    const path = ["fail2ban", "errorCodeRules"];
    if (!Array.isArray(rules)) return this.#asItIs(rules, at, path);
    const kept = rules.filter((rule: unknown, index) => {
      const code = isPlain(rule) ? Number(rule.code) : Number.NaN;
      if (Number.isNaN(code) || isBanCode(code)) return true;
      this.warn([...at, index], `left out: ${code} says that the request is wrong, which any client can bring about`);
      return false;
    });
    const translated = kept.map((rule: unknown, index) => this.#row(rule, BAN_RULE, [...at, rules.indexOf(rule)], [...path, index]));
    return this.#asItIs(translated, at, path);
  }

  /** Models of credentials that do not exist are left out, and of two entries for the same the later one counts, both as there. */
  models(written: unknown, credentials: unknown): void {
    if (!Array.isArray(written)) return this.#asItIs(written, ["models"], ["models"]);
    const known = credentialNames(credentials);
    const safe = safeNames(known);
    const rows: unknown[] = [];
    const places = new Map<string, number>();
    for (const [index, row] of written.entries() as IterableIterator<[number, unknown]>) {
      const at: OptionPath = ["models", index];
      const { name, credential = null, ...rest } = isPlain(row) ? row : {};
      const bound = credential === "" ? null : wordOf(credential);
      if (bound !== null && !known.includes(bound)) {
        this.warn([...at, "credential"], `there is no credential ${bound}, so this model is left out, as there${hint(bound, known)}`);
        continue;
      }
      const pair = JSON.stringify([name, bound]);
      const earlier = typeof name === "string" ? places.get(pair) : undefined;
      if (earlier !== undefined) this.warn([...at, "name"], "stands here a second time; this entry replaces the earlier one, as there");
      const place = earlier ?? rows.length;
      places.set(pair, place);
      rows[place] = this.#row(
        isPlain(row) ? { ...(name === undefined ? {} : { name }), ...(bound === null ? {} : { credential: safe.get(bound) }), ...rest } : row,
        KEYS.models,
        at,
        ["models", place],
      );
    }
    this.options.models = rows;
  }

  aliases(written: unknown): void {
    if (!isPlain(written)) return this.#asItIs(written, ["model_alias"], ["modelAlias"]);
    const aliases: Open = {};
    for (const [alias, model] of Object.entries(written)) {
      if (model === alias) {
        this.warn(["model_alias", alias], "stands for itself, so it is left out, as there");
        continue;
      }
      aliases[alias] = model;
      this.#came(["modelAlias", alias], ["model_alias", alias]);
    }
    this.options.modelAlias = aliases;
  }

  database(written: unknown): void {
    if (!isPlain(written) || flag(written.enabled) !== true) return;
    const instead = "spend is in quotaguard's own ledger (ledger.url), and clients have keys (keys)";
    this.#refuse(["litellm_db", "enabled"], `LiteLLM's database is not used: ${instead}; write a quotaguard.yaml with these, or set this to false`);
  }
}

/** As the file writes it. */
const nameOf = (at: OptionPath): string => formatPath(AS_WRITTEN, at, "file");

const named = (origin: Origin, name: string): Origin => (origin.kind === "file" ? { ...origin, name } : origin);

function assign(into: Open, [part, ...rest]: OptionPath, value: unknown): void {
  if (part === undefined) return;
  if (rest.length === 0) into[part] = value;
  else assign((into[part] ??= {}) as Open, rest, value);
}

function credentialNames(credentials: unknown): readonly string[] {
  return Array.isArray(credentials) ? credentials.flatMap((row: unknown) => (isPlain(row) ? (wordOf(row.name) ?? []) : [])) : [];
}

/** A name that consists of digits is a number to YAML. */
const wordOf = (value: unknown): string | null => (typeof value === "string" || typeof value === "number" ? String(value) : null);
