import { z } from "zod";
import type { ModelPrice } from "../metering/price.ts";
import { outputMaximum, usd, type FilePrice } from "./file-price.ts";

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
  cost: costSchema.extend({ context_over_200k: costSchema.partial().nullish() }).nullish().catch(null),
  limit: z.looseObject({ context: z.unknown().optional(), output: z.unknown().optional() }).nullish().catch(null),
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
      const { id, cost, limit } = parsed.data;
      const maxOutputTokens = outputMaximum(limit?.output, limit?.context);
      return [{ provider, names: id === undefined || id === name ? [name] : [name, id], price: cost ? priceOf(cost) : null, maxOutputTokens }];
    });
  });
}

function priceOf({ context_over_200k: over, ...base }: NonNullable<z.output<typeof modelSchema>["cost"]>): ModelPrice {
  return { ...ratesOf(base), ...(over ? { tiers: [{ aboveInputTokens: 200_000, ...ratesOf(over) }] } : {}) };
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
