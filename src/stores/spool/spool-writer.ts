/** Appends lines to one file: whatever comes while a write is on its way goes with the next one, so all requests of a moment share one flush to the disk. */
import type { Clock } from "../../core/time.ts";
import { MOST_LINE_BYTES } from "./spool-lines.ts";
import type { OpenSpool, SpoolFolder } from "./spool-folder.ts";

/** A disk that has not answered by then counts as broken: no request waits for it longer. */
const COMMIT_MS = 5_000;

export interface SpoolWriter {
  /** Null = nothing was ever written. */
  readonly path: string | null;
  /** Given so far, on the disk or on the way there. */
  readonly bytes: number;
  readonly lines: number;
  /** Why nothing is taken any more; null = it is. A file that failed once is never trusted again: its system may have dropped what it could not write. */
  readonly failure: Error | null;
  /** Resolves once the line is on the disk. Rejects when it may not be there. */
  append(line: string): Promise<void>;
  /** Resolves when nothing is on its way any more, whatever became of it. */
  idle(): Promise<void>;
  /** As {@link idle}, and closes the file. Nothing may be appended any more. */
  end(): Promise<void>;
}

interface Batch {
  text: string;
  readonly written: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export interface SpoolWriterOptions {
  readonly folder: SpoolFolder;
  readonly clock: Clock;
  /** Called once, when the file fails. */
  readonly onFailure: (error: Error) => void;
}

/** The file is made with the first line. */
export function spoolWriter({ folder, clock, onFailure }: SpoolWriterOptions): SpoolWriter {
  let file: OpenSpool | null = null;
  let failure: Error | null = null;
  let next: Batch | null = null;
  let running: Promise<void> | null = null;
  let bytes = 0;
  let lines = 0;

  async function run(): Promise<void> {
    // All that comes in this tick goes together.
    await new Promise(setImmediate);
    while (next !== null) {
      const batch: Batch = next;
      next = null;
      try {
        if (failure !== null) throw failure;
        await inTime(commit(batch.text));
        batch.resolve();
      } catch (error) {
        if (failure === null) onFailure((failure = error instanceof Error ? error : new Error(String(error))));
        batch.reject(failure);
      }
    }
    running = null;
  }

  async function commit(text: string): Promise<void> {
    file ??= await made();
    try {
      await file.append(text);
    } catch (error) {
      await file.close().catch(() => {});
      throw error;
    }
  }

  async function made(): Promise<OpenSpool> {
    const fresh = await folder.create();
    if (failure === null) return fresh;
    // Too late: nobody waits for it any more, and nothing stands in it.
    await fresh.close();
    await folder.remove(fresh.path);
    throw failure;
  }

  function inTime(work: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = clock.timer(COMMIT_MS, () => reject(new Error(`the disk did not answer within ${COMMIT_MS} ms`)));
      work.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  const idle = (): Promise<void> => running ?? Promise.resolve();

  return {
    get path() {
      return file?.path ?? null;
    },
    get bytes() {
      return bytes;
    },
    get lines() {
      return lines;
    },
    get failure() {
      return failure;
    },
    append(line) {
      if (failure !== null) return Promise.reject(failure);
      const length = Buffer.byteLength(line);
      if (length > MOST_LINE_BYTES) return Promise.reject(new RangeError(`a row of ${length} bytes is too long for the spool`));
      bytes += length;
      lines += 1;
      next ??= newBatch();
      next.text += line;
      running ??= run();
      return next.written;
    },
    idle,
    async end() {
      await idle();
      if (failure === null) await file?.close().catch(() => {});
    },
  };
}

function newBatch(): Batch {
  let resolve!: () => void;
  let reject!: (error: Error) => void;
  const written = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  // Rows are appended by who does not wait for them.
  written.catch(() => {});
  return { text: "", written, resolve, reject };
}
