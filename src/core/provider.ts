import type { DialectId, Operation } from "./call.ts";
import type { Credential, Fault } from "./credential.ts";

type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** What an error answer says about the credential that it came for. */
export interface Verdict {
  readonly fault: Fault;
  /** Whether the provider speaks of the account as a whole, not of one model. */
  readonly isAccountWide: boolean;
  /** Ms to wait when the answer's headers name no time; null = whoever asks knows better. */
  readonly waitMs: number | null;
}

/** What is particular about a provider. A row, not a class: other rows are made by spreading one and changing what differs. */
export interface ProviderRow {
  readonly id: string;
  readonly dialect: DialectId;
  /** Where it lives unless the credential says otherwise; null = the credential must say. */
  readonly baseUrl: string | null;
  /** Below the base URL's path. */
  readonly paths: Readonly<Record<Operation | "models", string>>;
  /** The field that caps a chat answer's length. */
  readonly capField: "max_tokens" | "max_completion_tokens";
  /** Client headers that the provider may see, besides the content type; lower case. What tells who the client is never goes, whatever stands here. */
  readonly forwardedHeaders: readonly string[];
  /** Adds the credential's proof to lower-case headers. Called once per credential, so it must depend on nothing else. */
  authorize(headers: Record<string, string>, credential: Credential): void;
  /** For a status outside 2xx. `body` is the answer; of a long one only the start is looked at. */
  classify(status: number, headers: Headers, body: Buffer | string): Verdict;
  /** Ms until the provider says to come back; null = it did not say. `isRateLimit` = a lack of room is why it refused, not the account or an outage. */
  retryAfterMs(headers: Headers, nowMs: number, isRateLimit: boolean): number | null;
}

/** A row as a plugin brings it: what differs from the row that it extends. */
export type ProviderDefinition = Partial<ProviderRow> & {
  readonly id: string;
  /** The row that says everything else, e.g. `openai-compatible`. */
  readonly extends: string;
};
