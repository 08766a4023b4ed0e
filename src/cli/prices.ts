import { rename, rm, writeFile } from "node:fs/promises";
import { ConfigError, GuardError } from "../core/errors.ts";
import { systemClock } from "../core/time.ts";
import { guardPrices, type GuardPrices } from "../guard-prices.ts";
import type { PriceSheet } from "../metering/prices.ts";
import { resolveOptions } from "../options.ts";
import { isPriceUrl } from "../options/prices.ts";
import type { ResolvedOptions } from "../options/resolved.ts";
import type { Candidate } from "../pool/candidate.ts";
import { patternMatcher } from "../pool/patterns.ts";
import type { PriceFileState } from "../price-files.ts";
import { offeredBy, type Offered } from "../offered.ts";
import { EXIT_FAILED, painter, print, table, type CommonFlags } from "./output.ts";
import { serverConfig } from "./server-config.ts";
import { shownPrice, type ShownPrice } from "./shown-price.ts";

export interface PriceListFlags extends CommonFlags {
  readonly model?: string;
  readonly org?: string;
}

export interface PriceImportFlags extends CommonFlags {
  readonly write?: boolean;
}

interface PriceRow {
  readonly model: string;
  readonly credential: string;
  readonly provider: string;
  /** Null = not priced. */
  readonly price: ShownPrice | null;
  readonly markupPct: number | null;
  /** Who says so: an option's path, or a file. */
  readonly source: string | null;
  /** As the ledger's rows have it. */
  readonly version: string | null;
}

/** `quotaguard prices list`: what holds now. No provider is asked. Returns the exit code: a price file that cannot be read is a failure. */
export async function listPrices(flags: PriceListFlags): Promise<number> {
  const options = resolveOptions(serverConfig({ path: flags.config }));
  const offered = offeredBy(options);
  const prices = await loaded(options, offered);
  const sheet = prices.at(flags.org ?? null, systemClock.now());
  const rows = candidatesOf(options, offered, flags.model).map((candidate) => rowOf(candidate, sheet));
  const files = prices.files();
  const failed = files.filter(({ problem }) => problem !== null);
  if (flags.json) print(JSON.stringify({ ok: failed.length === 0, prices: rows, files: files.map(fileRow) }));
  else printList(flags, rows, files, flags.model);
  return failed.length === 0 ? 0 : EXIT_FAILED;
}

async function loaded(options: ResolvedOptions, { credentials }: Offered): Promise<GuardPrices> {
  const prices = guardPrices(options, { clock: systemClock, credentials });
  await prices.load();
  await prices.close();
  return prices;
}

/** `quotaguard prices import`: what another list would change; with `--write` it replaces the first path in `prices.files`. Throws ConfigError for what is no list. */
export async function importPrices(file: string, flags: PriceImportFlags): Promise<number> {
  const options = resolveOptions(serverConfig({ path: flags.config }));
  const offered = offeredBy(options);
  const prices = await loaded(options, offered);
  const incoming = await loaded({ ...options, prices: { ...options.prices, ...resolveOptions({ prices: { files: [file] } }).prices } }, offered);
  const list = incoming.sourceOf(file);
  if (!list) throw new ConfigError(incoming.files().map(({ file: shown, problem }) => `${shown}: ${problem}`));
  const target = options.prices.files.find((each) => !isPriceUrl(each));
  if (flags.write && target === undefined)
    throw new ConfigError(["prices.files: names no path that the list could be saved as; add one, such as ./prices.json"]);
  const changed = prices.withFile(target ?? file, list);
  const changes = candidatesOf(options, offered)
    .map((candidate) => ({ before: rowOf(candidate, prices), after: rowOf(candidate, changed) }))
    .filter(({ before, after }) => before.version !== after.version);
  if (flags.write) await save(target as string, list.text);
  const saved = flags.write ? (target as string) : null;
  if (flags.json) print(JSON.stringify({ ok: true, shape: list.shape, models: list.models, changes, saved }));
  else printChanges(flags, `${list.name}: ${list.models} models in the shape of ${list.shape}`, changes, saved);
  return 0;
}

/** A gateway that reads it meanwhile sees the old list or the new one. */
async function save(path: string, text: string): Promise<void> {
  const beside = `${path}.${process.pid}.tmp`;
  try {
    await writeFile(beside, text, { flag: "wx" });
    await rename(beside, path);
  } finally {
    await rm(beside, { force: true });
  }
}

interface Change {
  readonly before: PriceRow;
  readonly after: PriceRow;
}

function printChanges(flags: CommonFlags, title: string, changes: readonly Change[], saved: string | null): void {
  const paint = painter(flags);
  print(title);
  const lines = changes.map(({ before, after }) => [
    before.model,
    before.credential,
    priceText(before.price),
    priceText(after.price),
    after.version ?? "",
  ]);
  const head = ["model", "credential", "now", "then", "version"];
  if (lines.length > 0) print(table([head, ...lines], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
  const what = changes.length === 0 ? "no price changes" : `${changes.length} ${changes.length === 1 ? "price changes" : "prices change"}`;
  print(saved === null ? `${what}; nothing was written` : `${what}; saved as ${saved}`);
}

function priceText(price: ShownPrice | null): string {
  if (!price) return "not priced";
  const { inputPerMtok, outputPerMtok, perRequest, tiers = [] } = price;
  const above = tiers.map((tier) => `; above ${tier.aboveInputTokens}: ${tier.inputPerMtok} / ${tier.outputPerMtok}`);
  return `${inputPerMtok} / ${outputPerMtok}${perRequest === 0 ? "" : `, ${perRequest} a request`}${above.join("")}`;
}

const fileRow = ({ readAt, ...file }: PriceFileState): object => ({ ...file, readAt: readAt === null ? null : new Date(readAt).toISOString() });

/** Models that the configuration knows by name; a name that is asked for needs not be among them. */
function candidatesOf(options: ResolvedOptions, { offers, credentials }: Offered, asked?: string): readonly Candidate[] {
  const { models, modelAlias, prices } = options;
  const listed = [...credentials].flatMap((credential) => credential.models ?? []);
  const ruled = prices.rules.flatMap(({ model }) => model ?? []);
  const known = [...models.map(({ name }) => name), ...Object.values(modelAlias), ...listed, ...ruled].filter((name) => !name.includes("*"));
  const matches = asked === undefined ? () => true : patternMatcher(asked);
  const names = new Set([...known.filter(matches), ...(asked === undefined || asked.includes("*") ? [] : [asked])]);
  return [...names].toSorted().flatMap((name) => {
    try {
      return offers.of(name).own;
    } catch (error) {
      // Priced, and offered by nobody.
      if (GuardError.is(error)) return [];
      throw error;
    }
  });
}

function rowOf({ name, credential }: Candidate, sheet: PriceSheet): PriceRow {
  const applied = sheet.find(name, credential.name);
  return {
    model: name,
    credential: credential.name,
    provider: credential.provider,
    price: applied && shownPrice(applied.price),
    markupPct: applied?.markupPct ?? null,
    source: applied?.source ?? null,
    version: applied?.version ?? null,
  };
}

function printList(flags: CommonFlags, rows: readonly PriceRow[], files: readonly PriceFileState[], asked?: string): void {
  const paint = painter(flags);
  const head = ["model", "credential", "USD per Mtok, in / out", "markup", "said by", "version"];
  const lines = rows.map(({ model, credential, price, markupPct, source, version }) => [
    model,
    credential,
    priceText(price),
    markupPct ? `${markupPct} %` : "",
    source ?? "",
    version ?? "",
  ]);
  if (rows.length > 0) print(table([head, ...lines], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
  for (const { file, models, problem } of files) {
    print(problem === null ? `${file}: ${models} models` : `${paint("red", "FAIL")}  ${file}: ${problem}`);
  }
  const unpriced = rows.filter(({ price }) => price === null).length;
  const none =
    asked === undefined
      ? "no model is known by name; name one: quotaguard prices list --model gpt-4o"
      : `nobody offers a model that matches ${asked}`;
  print(rows.length === 0 ? none : `${rows.length} prices${unpriced === 0 ? "" : `, ${unpriced} of them missing`}`);
}
