import type { ProviderRow } from "./credential.ts";

export type { ProviderRow, Verdict } from "./credential.ts";

/** A row as a plugin brings it: what differs from the row that it extends. */
export type ProviderDefinition = Partial<Omit<ProviderRow, "paths">> & {
  readonly id: string;
  /** The row that says everything else, e.g. `openai-compatible`. */
  readonly extends: string;
  /** Those that differ. */
  readonly paths?: Partial<ProviderRow["paths"]>;
};
