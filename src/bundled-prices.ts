import type { Logger } from "./core/logger.ts";
import type { Clock } from "./core/time.ts";
import { NO_SOURCES, type PriceSources } from "./metering/price-source.ts";

/** The price book that comes with the package, for one guard. */
export interface BundledPrices extends PriceSources {
  /** Reads it, once. Never rejects. */
  load(): Promise<void>;
}

/** Nothing of the book is loaded before somebody asks for it: it has a megabyte. */
export function bundledPrices({ clock, logger }: { readonly clock: Clock; readonly logger: Logger }): BundledPrices {
  let { current } = NO_SOURCES;
  let loading: Promise<void> | undefined;

  async function read(): Promise<void> {
    try {
      const { priceBookSource } = await import("./config/price-book.ts");
      current = [await priceBookSource(clock)];
    } catch (error) {
      logger.warn({ code: "QG_PRICE_BOOK", err: error }, "the bundled price book could not be read: what only it prices has no price");
    }
  }

  return {
    get current() {
      return current;
    },
    load: () => (loading ??= read()),
  };
}
