import { readFile, stat } from "node:fs/promises";
import { isIP } from "node:net";
import { priceFile, type PriceFile } from "./config/price-file.ts";
import type { Logger } from "./core/logger.ts";
import type { GuardedFetch } from "./core/plugin.ts";
import type { Clock, Timer } from "./core/time.ts";
import type { PriceSource, PriceSources } from "./metering/price-source.ts";
import { isPriceUrl } from "./options/prices.ts";
import type { Transport } from "./upstream/transport.ts";

/** The largest of them that is known has three million bytes. */
const MOST_BYTES = 32 * 1024 * 1024;
const TIMEOUT_MS = 5_000;

export interface PriceFileState {
  readonly file: string;
  /** How many models the prices in force are for; 0 = nothing of it could be read yet. */
  readonly models: number;
  /** When it was last read as it is in force, wall clock, ms. */
  readonly readAt: number | null;
  /** Why the last try failed. */
  readonly problem: string | null;
}

/** The price files of a guard. What was read last stays in force until a newer one could be read as a whole. */
export interface PriceFiles extends PriceSources {
  /** Reads all of them, and from then on again and again. Never rejects. */
  load(): Promise<void>;
  states(): readonly PriceFileState[];
  /** What is in force of a file; null = nothing. */
  sourceOf(file: string): PriceFile | null;
  /** Stops reading. */
  close(): Promise<void>;
}

export interface PriceFilesOptions {
  readonly files: readonly string[];
  readonly refreshMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Made when there is a URL to ask. It checks each address when it is dialled. */
  readonly transport: () => Transport;
}

interface Entry extends PriceFileState {
  readonly source: PriceFile | null;
}

export function priceFiles({ files, refreshMs, clock, logger, transport }: PriceFilesOptions): PriceFiles {
  const ending = new AbortController();
  let made: Transport | undefined;
  /** Loaded with the first URL: most guards have none. */
  const ask: GuardedFetch = async (url, init) => {
    const { guardedFetch } = await import("./guarded-fetch.ts");
    return guardedFetch({ clock, transport: () => (made ??= transport()), signal: ending.signal })(url, init);
  };
  const entries = new Map<string, Entry>(
    files.map((file) => [file, { file: shownFile(file), models: 0, readAt: null, problem: null, source: null }]),
  );
  let current: readonly PriceSource[] = [];
  let timer: Timer | undefined;
  let loading: Promise<void> | undefined;

  async function textOf(file: string): Promise<string> {
    if (!isPriceUrl(file)) return fileText(file);
    const { origin, hostname } = new URL(file);
    // A private address that is written out was meant; a name that leads to one was not.
    const allow = isIP(hostname.replace(/^\[|\]$/g, "")) === 0 && hostname !== "localhost" ? [] : [origin];
    const response = await ask(file, { maxBytes: MOST_BYTES, timeoutMs: TIMEOUT_MS, allow });
    if (response.status !== 200) throw new Error(`it was answered with ${response.status}`);
    return response.text();
  }

  async function read(file: string, before: Entry): Promise<Entry> {
    try {
      const text = await textOf(file);
      const readAt = clock.now();
      // The same text is the same prices: nobody has to look anything up anew.
      const source = text === before.source?.text ? before.source : priceFile(text, before.file);
      if (before.problem !== null) logger.info({ file: before.file, models: source.models }, "the price file could be read again");
      return { file: before.file, models: source.models, readAt, problem: null, source };
    } catch (error) {
      const problem = (error as Error).message;
      if (before.problem === null && !ending.signal.aborted) {
        const then = before.source ? "the prices of its last reading stay in force" : "what only it prices has no price";
        logger.warn({ code: "QG_PRICE_FILE", file: before.file, err: error }, `a price file could not be read: ${then}`);
      }
      return { ...before, problem };
    }
  }

  async function readAll(): Promise<void> {
    const next = await Promise.all([...entries].map(async ([file, entry]) => [file, await read(file, entry)] as const));
    if (ending.signal.aborted) return;
    for (const [file, entry] of next) entries.set(file, entry);
    const sources = next.flatMap(([, { source }]) => source ?? []);
    // One list for another, so that no request sees half of a change.
    if (sources.length !== current.length || sources.some((source, i) => source !== current[i])) current = sources;
    timer = clock.timer(refreshMs, () => void load());
  }

  const load = (): Promise<void> =>
    (loading ??= readAll().finally(() => {
      loading = undefined;
    }));

  return {
    get current() {
      return current;
    },
    load,
    states: () => [...entries.values()].map(({ file, models, readAt, problem }) => ({ file, models, readAt, problem })),
    sourceOf: (file) => entries.get(file)?.source ?? null,
    async close() {
      ending.abort(new Error("the guard is closing"));
      timer?.cancel();
      await loading;
      await made?.close();
    },
  };
}

/** Without what may be secret in a URL. */
function shownFile(file: string): string {
  if (!isPriceUrl(file)) return file;
  const { origin, pathname } = new URL(file);
  return origin + pathname;
}

async function fileText(path: string): Promise<string> {
  const found = await stat(path);
  // A pipe may never end.
  if (!found.isFile()) throw new Error("it is not a file");
  if (found.size > MOST_BYTES) throw new Error(`it has ${found.size} bytes, and at most ${MOST_BYTES} are read`);
  return readFile(path, "utf8");
}
