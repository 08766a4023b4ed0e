import type { PriceSource, SourcePrice } from "../metering/price-source.ts";
import type { FilePrice } from "./file-price.ts";
import { litellmPrices } from "./litellm-prices.ts";
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

/** An account that only speaks somebody's dialect may be anybody's. */
const ANYBODY: ReadonlySet<string> = new Set(["openai-compatible"]);

function providerOf(name: string): string {
  const written = name.toLowerCase().replaceAll("_", "-");
  return OUR_NAMES[written] ?? (written.startsWith("vertex-ai-") ? "vertex-ai" : written);
}

/** Reads a price file, of LiteLLM's or of models.dev's shape. Throws an Error that says what is wrong with it. */
export function priceFile(text: string, name: string): PriceFile {
  const entries = parsed(text);
  const isDev = isModelsDev(entries);
  const prices = (isDev ? modelsDevPrices(entries) : litellmPrices(entries)).filter(isCharged);
  if (prices.length === 0) throw new Error("it prices no model: expected the JSON of LiteLLM's model prices or of models.dev's api.json");
  const byName = new Map<string, SourcePrice[]>();
  for (const { provider, names, price } of prices) {
    for (const each of names) {
      const known = byName.get(each) ?? [];
      known.push({ provider: providerOf(provider), price });
      byName.set(each, known);
    }
  }
  return {
    name,
    shape: isDev ? "models.dev" : "litellm",
    models: prices.length,
    text,
    find(model, provider) {
      const known = byName.get(model) ?? NONE;
      return provider === null || ANYBODY.has(provider) ? known : known.filter((each) => each.provider === provider);
    },
  };
}

const NONE: readonly SourcePrice[] = [];

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
const isCharged = ({ price: { tiers: _tiers, ...rates } }: FilePrice): boolean => Object.values(rates).some((rate) => Number(rate) > 0);
