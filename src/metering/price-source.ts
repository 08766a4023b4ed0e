import type { ModelPrice } from "./price.ts";

/** A price that somebody else wrote down, under the model's name at one provider. */
export interface SourcePrice {
  readonly provider: string;
  readonly price: ModelPrice;
}

/** Prices that no option names: a file, a book that came along. Never changes: a newer one replaces it. */
export interface PriceSource {
  /** What it is, for people. */
  readonly name: string;
  /**
   * What is known of a model: at this provider, or wherever there is one of that name when the provider is null. None = unknown, which is never the same as
   * free.
   */
  find(model: string, provider: string | null): readonly SourcePrice[];
}

/** The sources that there are now, the first one first. The list is replaced as a whole. */
export interface PriceSources {
  readonly current: readonly PriceSource[];
}

export const NO_SOURCES: PriceSources = Object.freeze({ current: [] });
