import { performance } from "node:perf_hooks";
import type { JobResult } from "./job.ts";

/** Places for one interval's times; what is beyond them is counted, and not timed. */
const MOST_TIMES = 1 << 20;
const MOST_REASONS = 20;

/** Counts the verbs of a process from `begin` to `end`, with the time that each took and the CPU that all of them used. */
export class Meter {
  readonly #times: Float64Array;
  readonly #serverTime: () => Promise<number | null>;
  #operations = 0;
  #timed = 0;
  #mark: { readonly ms: number; readonly cpu: NodeJS.CpuUsage; readonly serverUs: number | null } | null = null;
  readonly #failures = new Map<string, number>();

  /** `serverTime` reads the CPU time of the server, in microseconds. */
  constructor(serverTime: () => Promise<number | null>) {
    this.#serverTime = serverTime;
    this.#times = new Float64Array(MOST_TIMES);
  }

  async begin(): Promise<void> {
    const serverUs = await this.#serverTime();
    this.#operations = 0;
    this.#timed = 0;
    this.#mark = { ms: performance.now(), cpu: process.cpuUsage(), serverUs };
  }

  /** One verb has been answered that was sent at this time. */
  answered(sentMs: number): void {
    this.#operations += 1;
    if (this.#timed < MOST_TIMES) this.#times[this.#timed++] = performance.now() - sentMs;
  }

  /** Verbs that took no time worth measuring one by one. */
  count(operations: number): void {
    this.#operations += operations;
  }

  fail(reason: string): void {
    const key = this.#failures.has(reason) || this.#failures.size < MOST_REASONS ? reason : "other";
    this.#failures.set(key, (this.#failures.get(key) ?? 0) + 1);
  }

  async end(): Promise<JobResult> {
    const mark = this.#mark;
    if (mark === null) throw new Error("the meter was not begun");
    const seconds = (performance.now() - mark.ms) / 1000;
    const { user, system } = process.cpuUsage(mark.cpu);
    const operations = this.#operations;
    const times = this.#times.slice(0, this.#timed).sort();
    const serverUs = await this.#serverTime();
    return {
      operations,
      seconds,
      clientCpuUs: user + system,
      serverCpuUs: mark.serverUs === null || serverUs === null ? null : serverUs - mark.serverUs,
      p50Ms: quantile(times, 0.5),
      p99Ms: quantile(times, 0.99),
      failures: [...this.#failures],
    };
  }
}

/** The value that this share of the sorted times does not exceed; null = there are none. */
export function quantile(sorted: Float64Array, share: number): number | null {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? null;
}
