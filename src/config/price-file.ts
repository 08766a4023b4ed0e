import type { PriceSource, SourcePrice } from "../metering/price-source.ts";
import { isAnybody } from "./file-price.ts";
import { litellmPrices } from "./litellm-prices.ts";
import type { ModelPrice } from "../metering/price.ts";
import { isModelsDev, modelsDevPrices } from "./models-dev-prices.ts";

/** A price file that was read. */
export interface PriceFile extends PriceSource {
  readonly shape: "litellm" | "models.dev";
  /** How many models it prices. */
  readonly models: number;
  /** As it was read. */
  readonly text: string;
}

/** What others call the providers that we know by another name. */
const OUR_NAMES: Readonly<Record<string, string>> = {
  "text-completion-openai": "openai",
  "azure-ai": "azure",
  google: "gemini",
  "google-vertex": "vertex-ai",
  "google-vertex-anthropic": "vertex-ai",
  "amazon-bedrock": "bedrock",
  "bedrock-converse": "bedrock",
  dashscope: "qwen",
  alibaba: "qwen",
  "github-copilot": "copilot",
};

function providerOf(name: string): string {
  const written = name.toLowerCase().replaceAll("_", "-");
  return OUR_NAMES[written] ?? (written.startsWith("vertex-ai-") ? "vertex-ai" : written);
}

/** Reads a price file, of LiteLLM's or of models.dev's shape. Throws an Error that says what is wrong with it. */
export function priceFile(text: string, name: string): PriceFile {
  const entries = parsed(text);
  const isDev = isModelsDev(entries);
  const read = isDev ? modelsDevPrices(entries) : litellmPrices(entries);
  const models = read.filter(({ price }) => isCharged(price)).length;
  if (models === 0) throw new Error("it prices no model: expected the JSON of LiteLLM's model prices or of models.dev's api.json");
  const byName = new Map<string, Known[]>();
  for (const { provider, names, price, maxOutputTokens } of read) {
    const known = { provider: providerOf(provider), price: isCharged(price) ? price : null, maxOutputTokens };
    for (const each of names) {
      const others = byName.get(each);
      if (others) others.push(known);
      else byName.set(each, [known]);
    }
  }
  const knownOf = (model: string, provider: string | null): readonly Known[] => {
    const known = byName.get(model) ?? [];
    return provider === null || isAnybody(provider) ? known : known.filter((each) => each.provider === provider);
  };
  return {
    name,
    kind: "file",
    shape: isDev ? "models.dev" : "litellm",
    models,
    text,
    changes: [],
    find: (model, provider) =>
      knownOf(model, provider).flatMap(({ provider: whose, price }): readonly SourcePrice[] => (price ? [{ provider: whose, price }] : [])),
    maxOutputTokens: (model, provider) =>
      knownOf(model, provider).reduce<number | null>(
        (most, each) => (each.maxOutputTokens === null ? most : Math.max(most ?? 0, each.maxOutputTokens)),
        null,
      ),
  };
}

interface Known {
  readonly provider: string;
  readonly price: ModelPrice | null;
  readonly maxOutputTokens: number | null;
}

function parsed(text: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("it is not a JSON object");
  return value as Readonly<Record<string, unknown>>;
}

/** These files write 0 for what is free, and for what nobody has looked up. Which of the two an operator has to say. */
function isCharged(price: ModelPrice | null): price is ModelPrice {
  const { tiers: _tiers, ...rates } = price ?? {};
  return Object.values(rates).some((rate) => Number(rate) > 0);
}
