import type { Credential } from "../core/credential.ts";
import { systemClock } from "../core/time.ts";
import { guardPrices } from "../guard-prices.ts";
import type { PriceBook } from "../metering/prices.ts";
import { modelDiscovery } from "../middleware/models/discovery.ts";
import { resolveOptions } from "../options.ts";
import type { ResolvedOptions } from "../options/resolved.ts";
import type { Candidate } from "../pool/candidate.ts";
import { modelListing, type Listing } from "../pool/listing.ts";
import type { Offers } from "../pool/offers.ts";
import { matchesAny } from "../pool/patterns.ts";
import { offeredBy, type Offered } from "../offered.ts";
import { undiciTransport } from "../upstream/transport.ts";
import { EXIT_FAILED, painter, print, table, type CommonFlags } from "./output.ts";
import { progress } from "./progress.ts";
import { serverConfig } from "./server-config.ts";
import { shownPrice, type ShownPrice } from "./shown-price.ts";

/** A model as some credentials serve it: those for which everything else is the same. */
interface ModelRow {
  readonly model: string;
  readonly providerModel: string;
  readonly credentials: readonly string[];
  readonly aliases: readonly string[];
  /** Per minute on each of the credentials; -1 = unlimited. */
  readonly rpm: number;
  readonly tpm: number;
  readonly price: ShownPrice | null;
}

interface CredentialRow {
  readonly credential: string;
  readonly provider: string;
  /** False when all its models are named in the configuration. */
  readonly asked: boolean;
  /** Whether the configuration says what it offers. */
  readonly named: boolean;
  /** What its provider lists, of what it may offer; null = unknown. */
  readonly listed: number | null;
  readonly problem: string | null;
  readonly rpm: number;
  readonly tpm: number;
  readonly maxConcurrent: number;
}

/** `quotaguard models`: what clients may ask for, who serves it, and under which limits. Returns the exit code. */
export async function models(flags: CommonFlags): Promise<number> {
  const config = serverConfig({ path: flags.config });
  const options = resolveOptions(config);
  const offered = offeredBy(options);
  const credentials = await askProviders(options, offered, flags);
  const listing = modelListing({ ...offered, models: options.models, aliases: options.modelAlias });
  const prices = guardPrices(options, { clock: systemClock, credentials: offered.credentials });
  await prices.load();
  await prices.close();
  const rows = modelRows(options, offered, listing, prices);
  const warnings = [...config.warnings, ...unserved(options, listing, rows), ...unlisted(options, offered, rows)];
  const failed = credentials.filter(({ problem }) => problem !== null);
  if (flags.json) print(JSON.stringify({ ok: failed.length === 0, config: config.file, warnings, models: rows, credentials }));
  else printTables(flags, rows, credentials, warnings);
  return failed.length === 0 ? 0 : EXIT_FAILED;
}

/** Asks as the gateway does before it answers `GET /v1/models`. */
async function askProviders(options: ResolvedOptions, { catalogue }: Offered, flags: CommonFlags): Promise<readonly CredentialRow[]> {
  const transport = undiciTransport({ connectTimeoutMs: options.resilience.connectTimeoutMs });
  const problems = new Map<string, string>();
  const discovery = modelDiscovery({
    credentials: options.credentials,
    catalogue,
    transport,
    clock: systemClock,
    onAnswer(credential, error) {
      if (error) problems.set(credential.name, error.message);
      shown.advance();
    },
  });
  const shown = progress("asking providers", flags.json ? 0 : discovery.asked.length);
  try {
    await discovery.refresh();
  } finally {
    shown.clear();
    await transport.close();
  }
  return options.credentials.map((credential) => {
    const { name, provider, rpm, tpm, maxConcurrent } = credential;
    const asked = discovery.asked.includes(credential);
    return {
      credential: name,
      provider,
      asked,
      named: credential.models !== null,
      listed: catalogue.lists(name)?.size ?? null,
      problem: problems.get(name) ?? null,
      rpm,
      tpm,
      maxConcurrent,
    };
  });
}

function modelRows(options: ResolvedOptions, { offers }: Offered, listing: Listing, prices: PriceBook): readonly ModelRow[] {
  const aliases = Object.keys(options.modelAlias).map((alias) => ({ alias, name: offers.resolve(alias), serving: servingOf(offers, alias) }));

  function rowOf({ name, model, credential }: Candidate): ModelRow {
    const entries = options.models.filter((entry) => entry.name === name);
    const entry = entries.find((item) => item.credential === credential.name) ?? entries.find((item) => item.credential === undefined);
    const price = prices.find(name, credential.name)?.price;
    return {
      model: name,
      providerModel: model,
      credentials: [credential.name],
      aliases: aliases.filter((each) => each.name === name && each.serving.includes(credential)).map(({ alias }) => alias),
      rpm: entry?.rpm ?? options.server.defaultModelsRpm,
      tpm: entry?.tpm ?? -1,
      price: price ? shownPrice(price) : null,
    };
  }

  return [...listing.all().values()].flatMap(({ id, credentials }) => {
    const serving = offers.of(id).own.filter(({ credential }) => credentials.includes(credential.name));
    const alike = Map.groupBy(serving.map(rowOf), (row) => JSON.stringify({ ...row, credentials: null }));
    return [...alike.values()].map((rows) => ({ ...(rows[0] as ModelRow), credentials: rows.flatMap((row) => row.credentials) }));
  });
}

function servingOf(offers: Offers, model: string): readonly Credential[] {
  try {
    return offers.of(model).own.map(({ credential }) => credential);
  } catch {
    // Nobody may: an alias can be left over from a credential that is gone.
    return [];
  }
}

/** What the configuration names, and no credential is known to offer. */
function unserved({ models: entries, modelAlias }: ResolvedOptions, listing: Listing, rows: readonly ModelRow[]): string[] {
  const hidden = [...new Set(entries.map(({ name }) => name))].filter((name) => listing.find(name) === null);
  const served = new Set(rows.flatMap(({ aliases }) => aliases));
  const idle = Object.entries(modelAlias).filter(([alias]) => !served.has(alias));
  return [
    ...hidden.map((name) => `models: no credential offers ${name}, so it is not listed`),
    ...idle.map(([alias, model]) => `model_alias: ${alias} stands for ${model}, which no credential is known to offer`),
  ];
}

/** What is asked for by name at providers whose lists do not have it: entries outlive the models that they were made for. */
function unlisted({ credentials }: ResolvedOptions, { catalogue }: Offered, rows: readonly ModelRow[]): string[] {
  const lacks = (name: string, model: string): boolean => {
    const patterns = credentials.find((credential) => credential.name === name)?.models ?? null;
    const list = catalogue.lists(name);
    // Of a list only what the patterns let through is kept.
    return list !== null && !list.has(model) && (patterns === null || matchesAny(patterns, model));
  };
  return rows.flatMap(({ model, providerModel, credentials: names }) => {
    if (names.length === 0 || !names.every((name) => lacks(name, providerModel))) return [];
    const called = providerModel === model ? model : `${model} (there ${providerModel})`;
    return [`models: ${called} is not on the list of ${names.join(", ")}, and may be refused there`];
  });
}

function printTables(flags: CommonFlags, rows: readonly ModelRow[], credentials: readonly CredentialRow[], warnings: readonly string[]): void {
  const paint = painter(flags);
  if (rows.length > 0) {
    const head = ["model", "at the provider", "credentials", "aliases", "limits", "USD per Mtok, in / out"];
    print(table([head, ...rows.map(modelLine)], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
    print("");
  }
  if (credentials.length > 0) {
    const head = ["credential", "provider", "limits", "its list"];
    const failed = new Set(credentials.flatMap(({ problem }, i) => (problem === null ? [] : [i + 1])));
    print(
      table([head, ...credentials.map(credentialLine)], {
        paint: (text, row, column) => (row === 0 ? paint("dim", text) : column === 3 && failed.has(row) ? paint("red", text) : text),
      }),
    );
    print("");
  }
  for (const warning of warnings) print(`${paint("yellow", "warn")}  ${warning}`);
  print(summary(rows, credentials));
}

const modelLine = ({ model, providerModel, credentials, aliases, price, ...limits }: ModelRow): readonly string[] => [
  model,
  providerModel === model ? "" : providerModel,
  credentials.join(", "),
  aliases.join(", "),
  limitsText(limits),
  price ? `${price.inputPerMtok} / ${price.outputPerMtok}` : "",
];

function credentialLine({ credential, provider, asked, named, listed, problem, ...limits }: CredentialRow): readonly string[] {
  const unasked = named ? "the configuration names all its models" : "the provider has no list of an account's; name them in models";
  const answer = asked ? `lists ${counted(listed ?? 0, "model")}` : `not asked: ${unasked}`;
  return [credential, provider, limitsText(limits), problem ?? answer];
}

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`;

function limitsText({ rpm, tpm, maxConcurrent = -1 }: { readonly rpm: number; readonly tpm: number; readonly maxConcurrent?: number }): string {
  const limits = [
    [rpm, "rpm"],
    [tpm, "tpm"],
    [maxConcurrent, "at one time"],
  ] as const;
  return limits.flatMap(([limit, unit]) => (limit < 0 ? [] : [`${limit} ${unit}`])).join(", ");
}

function summary(rows: readonly ModelRow[], credentials: readonly CredentialRow[]): string {
  if (credentials.length === 0) return "no credential is configured, so nothing is offered";
  const failed = credentials.filter(({ problem }) => problem !== null).length;
  const offered = `${counted(new Set(rows.map(({ model }) => model)).size, "model")} from ${counted(credentials.length, "credential")}`;
  return failed === 0 ? offered : `${offered}; ${failed} of them could not be asked`;
}
