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
  readonly kind: "file" | "book";
  /** When prices in it begin to count, wall clock, ms. */
  readonly changes: readonly number[];
  /**
   * What is known of a model at a time (wall clock, ms): at this provider, or wherever there is one of that name when the provider is null. Several = it may be
   * any of them. None = unknown, which is never the same as free.
   */
  find(model: string, provider: string | null, atMs: number): readonly SourcePrice[];
  /** The most tokens that the model writes in one answer, asked for like a price; null = not known. */
  maxOutputTokens(model: string, provider: string | null): number | null;
}

/** The sources that there are now, the first one first. The list is replaced as a whole. */
export interface PriceSources {
  readonly current: readonly PriceSource[];
}

export const NO_SOURCES: PriceSources = Object.freeze({ current: [] });
