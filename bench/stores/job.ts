import type { Shape } from "./charges.ts";
import type { Meter } from "./meter.ts";

/** What a contender is asked to do for a while. */
export interface Job {
  readonly verbs: Verbs;
  readonly shape: Shape;
  /** How many callers wait for an answer at any time. 0 = one that never waits, for stores that answer at once. */
  readonly inFlight: number;
  /** Not measured. */
  readonly warmUpMs: number;
  readonly measureMs: number;
}

/**
 * `reserve`: reservations that stay open. `pairs`: reserve and settle. `fresh-pairs`: the same with amounts, and so charges, of each request's own.
 * `together`: five limiters asked at once, `one-by-one`: each after the other.
 */
export type Verbs = "reserve" | "pairs" | "fresh-pairs" | "together" | "one-by-one";

export interface JobResult {
  /** Verbs answered; five limiters asked for one request are one. */
  readonly operations: number;
  readonly seconds: number;
  /** Of the contender's process, all its threads. */
  readonly clientCpuUs: number;
  readonly serverCpuUs: number | null;
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  /** Reason and count. */
  readonly failures: readonly (readonly [string, number])[];
}

/** What can be asked to run jobs. */
export interface Contender {
  /** Does verbs until `stopping` says so and all are answered. */
  run(job: Job, meter: Meter, stopping: () => boolean): Promise<void>;
  /** Brings the store back to where it was, outside the measured time. */
  tidy(): Promise<void>;
  close(): Promise<void>;
}
