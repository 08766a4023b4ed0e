import { bundledPrices, type BundledPrices } from "./bundled-prices.ts";
import type { PriceFile } from "./config/price-file.ts";
import { silentLogger, type Logger } from "./core/logger.ts";
import type { Clock } from "./core/time.ts";
import { NO_SOURCES, type PriceSource, type PriceSources } from "./metering/price-source.ts";
import { priceBook, type PriceBook, type PricedCredentials } from "./metering/prices.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { patternMatcher } from "./pool/patterns.ts";
import { priceFiles, type PriceFiles, type PriceFileState } from "./price-files.ts";
import { undiciTransport, type Transport } from "./upstream/transport.ts";

export interface GuardPricesParts {
  readonly clock: Clock;
  readonly credentials: PricedCredentials;
  /** Is told of files that cannot be read. */
  readonly logger?: Logger;
}

/** The prices of a guard: one book for what is held, what is settled and what is shown. */
export interface GuardPrices extends PriceBook {
  /** Reads the price files and the bundled book; until then they price nothing. Never rejects. */
  load(): Promise<void>;
  files(): readonly PriceFileState[];
  /** What is in force of a file; null = nothing. */
  sourceOf(file: string): PriceFile | null;
  /** The same prices, as they would be if a file had this content. A file that is not among the options comes last. */
  withFile(file: string, content: PriceSource): PriceBook;
  close(): Promise<void>;
}

/** Throws ConfigError for what cannot be a price. */
export function guardPrices(options: ResolvedOptions, { clock, credentials, logger = silentLogger }: GuardPricesParts): GuardPrices {
  const { models, prices, resilience, transport } = options;
  // The host's own is the host's to close.
  const make = (): Transport =>
    transport
      ? { send: (request, handler) => transport.send(request, handler), close: async () => {} }
      : undiciTransport({ connectTimeoutMs: resilience.connectTimeoutMs, clock });
  const files = prices.files.length === 0 ? null : priceFiles({ ...prices, clock, logger, transport: make });
  const bundled = prices.book ? bundledPrices({ clock, logger }) : null;
  const bookOf = (sources: PriceSources): PriceBook => priceBook({ ...prices, models, sources, credentials, matcherOf: patternMatcher, clock });
  return {
    ...bookOf(joined(files, bundled)),
    withFile: (file, content) =>
      bookOf({
        current: [
          ...[...new Set([...prices.files, file])].flatMap((each) => (each === file ? content : (files?.sourceOf(each) ?? []))),
          ...(bundled?.current ?? []),
        ],
      }),
    sourceOf: (file) => files?.sourceOf(file) ?? null,
    load: async () => void (await Promise.all([files?.load(), bundled?.load()])),
    files: () => files?.states() ?? [],
    close: async () => files?.close(),
  };
}

/** Files before the bundled book. A new list only when one of the two is new. */
function joined(files: PriceFiles | null, bundled: BundledPrices | null): PriceSources {
  if (!files || !bundled) return files ?? bundled ?? NO_SOURCES;
  let parts = [files.current, bundled.current] as const;
  let current: PriceSources["current"] = parts.flat();
  return {
    get current() {
      if (parts[0] !== files.current || parts[1] !== bundled.current) {
        parts = [files.current, bundled.current];
        current = parts.flat();
      }
      return current;
    },
  };
}
