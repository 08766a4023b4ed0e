/** What a limit counts. `usd` amounts are nano-USD. */
export type Unit = "requests" | "tokens" | "input_tokens" | "output_tokens" | "usd" | "concurrent";

export const UNITS: readonly Unit[] = ["requests", "tokens", "input_tokens", "output_tokens", "usd", "concurrent"];

/** Amounts per unit. An absent unit keeps what was reserved; 0 is a real zero. */
export type Amounts = { readonly [unit in Unit]?: number };
