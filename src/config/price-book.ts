import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { z } from "zod";
import type { Clock } from "../core/time.ts";
import type { ModelPrice, PriceTier } from "../metering/price.ts";
import type { PriceSource, SourcePrice } from "../metering/price-source.ts";
import { isAnybody, shifted, usd } from "./file-price.ts";

const PACKAGE = "@pydantic/genai-prices";

/** It is bundled, and there at once; only a host that lets the package update itself could keep it busy. */
const TIMEOUT_MS = 1_000;

/** What the book calls our providers, where it has another name for them. A provider of a plugin may have any of its names. */
const THEIR_NAMES: ReadonlyMap<string, string> = new Map([
  ["gemini", "google"],
  ["vertex-ai", "google"],
  ["bedrock", "aws"],
  ["copilot", "github-copilot"],
]);

/** No model is called by so long a name, and each name is looked for among all of them. */
const LONGEST_NAME = 200;

const RATES = {
  input_mtok: "inputPerMtok",
  output_mtok: "outputPerMtok",
  cache_read_mtok: "cacheReadPerMtok",
  cache_write_mtok: "cacheWritePerMtok",
  output_reasoning_mtok: "reasoningPerMtok",
  cache_write_1h_mtok: "cacheWriteLongPerMtok",
  input_audio_mtok: "audioInputPerMtok",
  output_audio_mtok: "audioOutputPerMtok",
  input_image_mtok: "imageInputPerMtok",
  output_image_mtok: "imageOutputPerMtok",
} as const;

const PER_THOUSAND_REQUESTS = "requests_kcount";

/** What a price may have besides: tools of the provider, which are no tokens, and kinds of tokens that are priced as what they are a kind of. */
const BESIDES: ReadonlySet<string> = new Set([
  "web_searches_kcount",
  "storage_searches_kcount",
  "social_searches_kcount",
  "cache_audio_read_mtok",
  "cache_image_read_mtok",
  "output_citation_mtok",
]);

const rateSchema = z.union([
  usd(),
  z.looseObject({ base: usd(), tiers: z.array(z.looseObject({ start: z.number().int().min(0).max(1_000_000_000), price: usd() })) }),
]);
const ratesSchema = z.record(z.string(), rateSchema.optional());
type Rate = z.output<typeof rateSchema>;

const constraintSchema = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("start_date"), start_date: z.iso.date() }),
  z.looseObject({ type: z.literal("time_of_date") }),
]);
const datedSchema = z.array(z.looseObject({ constraint: constraintSchema.optional(), prices: z.unknown() }));

/** A price, and when it counts. */
interface DatedPrice {
  readonly when: "always" | "daily" | number;
  /** Null = it cannot be read, or is not by the token. */
  readonly price: ModelPrice | null;
}

/** Reads the price book that comes with the package, once and off this machine. Rejects when there is none that can be read. */
export async function priceBookSource(clock: Clock): Promise<PriceSource> {
  const { calcPrice, waitForUpdate } = await import("@pydantic/genai-prices");
  const providers = await inTime(waitForUpdate(), clock);
  const ids = new Set(providers?.map(({ id }) => id));
  if (ids.size === 0) throw new Error(`${PACKAGE} has no prices`);
  const known = new Map((providers ?? []).flatMap(({ models }) => models.map(({ prices }) => [prices as object, datedPrices(prices)] as const)));
  const changes = [...known.values()].flatMap((dated) => dated.map(({ when }) => when)).filter((when) => typeof when === "number");

  /** The package's own rules say which names a model has. They throw at a price that they cannot compute. */
  function pricesOf(model: string, provider: string): readonly DatedPrice[] {
    try {
      const found = calcPrice({}, model, { providerId: provider });
      return found ? (known.get(found.model.prices) ?? datedPrices(found.model.prices)) : [];
    } catch {
      return [];
    }
  }

  return {
    name: await nameAndVersion(),
    kind: "book",
    changes: [...new Set(changes)],
    find(model, provider, atMs) {
      if (model === "" || model.length > LONGEST_NAME) return [];
      const asked = provider === null || isAnybody(provider) ? ids : [THEIR_NAMES.get(provider) ?? provider].filter((id) => ids.has(id));
      return [...asked].flatMap((id) => pricesAt(pricesOf(model, id), atMs).map((price): SourcePrice => ({ provider: id, price })));
    },
    // It knows windows only, of input and output together.
    maxOutputTokens: () => null,
  };
}

/**
 * Those of a time: of what has begun the last, and all that count for some hours of each day, so that the dearest of them is held and billed. None, when one
 * of them cannot be read.
 */
function pricesAt(dated: readonly DatedPrice[], atMs: number): readonly ModelPrice[] {
  const prices: (ModelPrice | null)[] = [];
  for (const { when, price } of dated.toReversed()) {
    if (typeof when === "number" && when > atMs) continue;
    prices.push(price);
    if (when !== "daily") break;
  }
  // Before the first of them began it counts all the same.
  if (prices.length === 0 && dated[0]) prices.push(dated[0].price);
  return prices.includes(null) ? [] : (prices as ModelPrice[]);
}

/** As the book has it: one price, or several of which the last that applies counts. */
export function datedPrices(written: unknown): readonly DatedPrice[] {
  if (!Array.isArray(written)) return [{ when: "always", price: bookPrice(written) }];
  const parsed = datedSchema.safeParse(written);
  // Nobody can say when it counts.
  if (!parsed.success) return [];
  return parsed.data.map(({ constraint, prices }) => ({ when: whenOf(constraint), price: bookPrice(prices) }));
}

function whenOf(constraint: z.output<typeof constraintSchema> | undefined): DatedPrice["when"] {
  if (constraint === undefined) return "always";
  return constraint.type === "start_date" ? Date.parse(constraint.start_date) : "daily";
}

/** Null = not by the token, by something that is not counted here, or nothing: free is only what is said to cost 0. */
function bookPrice(written: unknown): ModelPrice | null {
  const { data } = ratesSchema.safeParse(written);
  const entries = Object.entries(data ?? {}).filter((entry): entry is [string, Rate] => entry[1] !== undefined);
  if (entries.some(([key]) => !Object.hasOwn(RATES, key) && key !== PER_THOUSAND_REQUESTS && !BESIDES.has(key))) return null;
  const said = new Map(entries);
  const input = said.get("input_mtok");
  // Embeddings write nothing. Whatever else does pays for it as for what it read: what is not said is not free.
  const output = said.get("output_mtok") ?? (input !== undefined && baseOf(input) > 0 ? input : undefined);
  if (input === undefined || output === undefined) return null;
  said.set("output_mtok", output);
  const requests = said.get(PER_THOUSAND_REQUESTS);
  if (requests !== undefined && typeof requests !== "number") return null;
  const tiers = tiersOf(said);
  return {
    ...ratesOf(said, baseOf),
    ...(requests === undefined ? {} : { perRequest: shifted(requests, -3) }),
    ...(tiers.length > 0 ? { tiers } : {}),
  };
}

const baseOf = (rate: Rate): number => (typeof rate === "number" ? rate : rate.base);

function ratesOf(said: ReadonlyMap<string, Rate>, of: (rate: Rate) => number | undefined): Omit<ModelPrice, "tiers"> {
  const rates: Record<string, number> = {};
  for (const [key, name] of Object.entries(RATES)) {
    const rate = said.get(key);
    const value = rate === undefined ? undefined : of(rate);
    if (value !== undefined) rates[name] = value;
  }
  return rates;
}

function tiersOf(said: ReadonlyMap<string, Rate>): readonly PriceTier[] {
  const begins = new Set(Object.keys(RATES).flatMap((key) => startsOf(said.get(key))));
  return [...begins]
    .toSorted((a, b) => a - b)
    .map((above) => ({
      aboveInputTokens: above,
      ...ratesOf(said, (rate) => (typeof rate === "number" ? undefined : rate.tiers.find(({ start }) => start === above)?.price)),
    }));
}

const startsOf = (rate: Rate | undefined): readonly number[] =>
  rate === undefined || typeof rate === "number" ? [] : rate.tiers.map(({ start }) => start);

async function inTime<T>(value: Promise<T>, clock: Clock): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = clock.timer(TIMEOUT_MS, () => late.reject(new Error(`${PACKAGE} is still being updated`)));
  try {
    return await Promise.race([value, late.promise]);
  } finally {
    timer.cancel();
  }
}

/** Which book it is: the package's version changes with its prices. */
async function nameAndVersion(): Promise<string> {
  try {
    const main = createRequire(import.meta.url).resolve(PACKAGE);
    const { version } = z
      .looseObject({ version: z.string() })
      .parse(JSON.parse(await readFile(new URL("../package.json", pathToFileURL(main)), "utf8")));
    return `${PACKAGE} ${version}`;
  } catch {
    // A bundler may have taken it apart.
    return PACKAGE;
  }
}
