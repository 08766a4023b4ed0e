import { z } from "zod";
import type { ModelPrice } from "../metering/price.ts";
import { usd, type FilePrice } from "./file-price.ts";

const costSchema = z.looseObject({
  input: usd(),
  output: usd(),
  reasoning: usd().nullish(),
  cache_read: usd().nullish(),
  cache_write: usd().nullish(),
  input_audio: usd().nullish(),
  output_audio: usd().nullish(),
});

const modelSchema = z.looseObject({
  id: z.string().optional(),
  cost: costSchema.extend({ context_over_200k: costSchema.partial().nullish() }),
});

const providerSchema = z.looseObject({ models: z.record(z.string(), z.unknown()) });

export const isModelsDev = (entries: Readonly<Record<string, unknown>>): boolean =>
  Object.values(entries).some((entry) => providerSchema.safeParse(entry).success);

/** The file of models.dev (`api.json`): providers, their models, USD per million tokens. */
export function modelsDevPrices(entries: Readonly<Record<string, unknown>>): readonly FilePrice[] {
  return Object.entries(entries).flatMap(([provider, value]) => {
    const { data } = providerSchema.safeParse(value);
    return Object.entries(data?.models ?? {}).flatMap(([name, model]): FilePrice[] => {
      const parsed = modelSchema.safeParse(model);
      if (!parsed.success) return [];
      const { id, cost } = parsed.data;
      const { context_over_200k: over, ...base } = cost;
      const price = { ...ratesOf(base), ...(over ? { tiers: [{ aboveInputTokens: 200_000, ...ratesOf(over) }] } : {}) };
      return [{ provider, names: id === undefined || id === name ? [name] : [name, id], price }];
    });
  });
}

function ratesOf(cost: Partial<z.output<typeof costSchema>>): Omit<ModelPrice, "tiers"> {
  const rates = {
    inputPerMtok: cost.input,
    outputPerMtok: cost.output,
    reasoningPerMtok: cost.reasoning,
    cacheReadPerMtok: cost.cache_read,
    cacheWritePerMtok: cost.cache_write,
    audioInputPerMtok: cost.input_audio,
    audioOutputPerMtok: cost.output_audio,
  };
  return Object.fromEntries(Object.entries(rates).filter(([, value]) => value !== undefined && value !== null));
}
