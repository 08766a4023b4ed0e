/** What one provider is asked, and what its answer says. Pure: who sends it, when, and what becomes of failures is the same for all. */
import type { Credential, QuotaReading } from "../../core/credential.ts";
import type { Fields } from "./fields.ts";

/** As `endpoints` names them. */
export const COLLECTOR_IDS = ["claude", "codex", "copilot", "gemini", "antigravity", "kiro", "qwen"] as const;
export type CollectorId = (typeof COLLECTOR_IDS)[number];

export interface QuotaRequest {
  readonly method: "GET" | "POST";
  /** Below the collector's base URL. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** JSON. */
  readonly body?: Fields;
  /** Of an answer with status 2xx. None = it says nothing, which is not the same as nothing left. */
  read(body: Fields, nowMs: number): readonly QuotaReading[];
}

export interface Collector {
  readonly id: CollectorId;
  /** Whose credentials it asks about. */
  readonly provider: string;
  /** Of those that only these may be asked about: an API key has no subscription. Absent = all that have a key. */
  applies?(credential: Credential): boolean;
  /** Where it is asked unless `endpoints` says otherwise. */
  baseUrl(credential: Credential): string;
  /**
   * The origins of the provider's own servers. A credential that lives elsewhere has a key of somebody else's: it is asked about where its requests go, and
   * nowhere else.
   */
  isAtHome(credential: Credential): boolean;
  /** Some count their questions, too, ms. */
  readonly leastIntervalMs?: number;
  /** In this order, until one says something. */
  requests(credential: Credential): readonly QuotaRequest[];
}
