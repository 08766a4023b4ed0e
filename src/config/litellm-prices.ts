import { z } from "zod";
import type { ModelPrice, PriceTier } from "../metering/price.ts";
import { outputMaximum, perMtok, usd, type FilePrice } from "./file-price.ts";

const FIELDS = {
  input_cost_per_token: "inputPerMtok",
  output_cost_per_token: "outputPerMtok",
  output_cost_per_reasoning_token: "reasoningPerMtok",
  output_cost_per_prediction_token: "predictionPerMtok",
  cache_read_input_token_cost: "cacheReadPerMtok",
  cache_creation_input_token_cost: "cacheWritePerMtok",
  cache_creation_input_token_cost_above_1hr: "cacheWriteLongPerMtok",
  input_cost_per_audio_token: "audioInputPerMtok",
  output_cost_per_audio_token: "audioOutputPerMtok",
  input_cost_per_image_token: "imageInputPerMtok",
  output_cost_per_image_token: "imageOutputPerMtok",
} as const satisfies Readonly<Record<string, keyof ModelPrice>>;

type Field = keyof typeof FIELDS;
type Cost = z.ZodOptional<z.ZodNullable<ReturnType<typeof usd>>>;

const costs = () => Object.fromEntries(Object.keys(FIELDS).map((field) => [field, usd().nullish()])) as { [field in Field]: Cost };

const entrySchema = z.looseObject({
  litellm_provider: z.string(),
  mode: z.string().nullish(),
  max_input_tokens: z.unknown().optional(),
  max_output_tokens: z.unknown().optional(),
  /** What the other two were once written as: of the output where there is a window beside it. */
  max_tokens: z.unknown().optional(),
  ...costs(),
  /** As auto_ai_router calls it. */
  input_cost_per_cached_token: usd().nullish(),
  input_cost_per_request: usd().nullish(),
  output_cost_per_image: usd().nullish(),
  tiered_pricing: z.array(z.looseObject({ range: z.tuple([z.number().min(0), z.number()]), ...costs() })).nullish(),
});

type Entry = z.output<typeof entrySchema>;

/** What is billed by tokens: images, seconds, pages and characters cannot be priced here. */
const BY_TOKENS: ReadonlySet<string> = new Set(["chat", "completion", "responses", "embedding"]);

const ABOVE = new RegExp(`^(${Object.keys(FIELDS).join("|")})_above_(\\d{1,6})k_tokens$`);

/** The file of LiteLLM (`model_prices_and_context_window.json`): a model's name, perhaps behind its provider's, to USD per token. */
export function litellmPrices(entries: Readonly<Record<string, unknown>>): readonly FilePrice[] {
  return Object.entries(entries).flatMap(([key, value]): FilePrice[] => {
    const parsed = entrySchema.safeParse(value);
    if (!parsed.success) return [];
    const entry = parsed.data;
    const { max_output_tokens: output, max_tokens: either, max_input_tokens: window } = entry;
    const provider = entry.litellm_provider;
    const prefix = `${provider}/`;
    return [
      {
        provider,
        names: key.startsWith(prefix) ? [key, key.slice(prefix.length)] : [key],
        price: priceOf(entry),
        maxOutputTokens: outputMaximum(output ?? either, window),
      },
    ];
  });
}

function priceOf(entry: Entry): ModelPrice | null {
  const { mode, tiered_pricing: ranges } = entry;
  if (mode && !BY_TOKENS.has(mode)) return null;
  const [first, ...more] = (ranges ?? []).toSorted((a, b) => a.range[0] - b.range[0]);
  const base = { ...first, ...present(entry) };
  const input = base.input_cost_per_token ?? undefined;
  // Embeddings write nothing.
  const output = base.output_cost_per_token ?? (mode === "embedding" ? 0 : undefined);
  if (input === undefined || output === undefined) return null;
  const above = tiersAbove(entry);
  if (!above) return null;
  const tiers = [...more.map((range): PriceTier => ({ aboveInputTokens: Math.floor(range.range[0]), ...ratesOf(range) })), ...above];
  return {
    ...ratesOf({ ...base, cache_read_input_token_cost: base.cache_read_input_token_cost ?? base.input_cost_per_cached_token }),
    inputPerMtok: perMtok(input),
    outputPerMtok: perMtok(output),
    ...(base.input_cost_per_request ? { perRequest: base.input_cost_per_request } : {}),
    // Both would be one cost told twice.
    ...(base.output_cost_per_image && !isSaid(base.output_cost_per_image_token) ? { perImage: base.output_cost_per_image } : {}),
    ...(tiers.length > 0 ? { tiers } : {}),
  };
}

const isSaid = (value: unknown): boolean => value !== null && value !== undefined;

const present = <T extends object>(entry: T): Partial<T> =>
  Object.fromEntries(Object.entries(entry).filter(([, value]) => isSaid(value))) as Partial<T>;

type Rates = Omit<ModelPrice, "tiers">;

function ratesOf(entry: Readonly<Record<string, unknown>>): Rates {
  const rates: Record<string, string> = {};
  for (const [field, name] of Object.entries(FIELDS)) {
    const value = entry[field];
    if (typeof value === "number") rates[name] = perMtok(value);
  }
  return rates;
}

/** `input_cost_per_token_above_200k_tokens` and the like. Null = one of them is no price: large requests would pay as small ones do. */
function tiersAbove(entry: Entry): readonly PriceTier[] | null {
  const tiers = new Map<number, Record<string, string>>();
  for (const [field, value] of Object.entries(entry)) {
    const [, name, thousands] = ABOVE.exec(field) ?? [];
    const cost = usd().safeParse(value);
    if (name === undefined || value === null) continue;
    if (!cost.success) return null;
    const above = Number(thousands) * 1_000;
    const rates = tiers.get(above) ?? {};
    rates[FIELDS[name as Field]] = perMtok(cost.data);
    tiers.set(above, rates);
  }
  return [...tiers].map(([aboveInputTokens, rates]) => ({ aboveInputTokens, ...rates }));
}
