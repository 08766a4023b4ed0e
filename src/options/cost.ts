/** What one request costs, as it is written: in `budgets()` on a host's own route, and for paths that are passed through. */
import { z } from "zod";

const usd = () => z.number().min(0).max(4_000_000);
const tokens = () => z.number().int().min(0).max(4_000_000_000_000_000);

export const COST_FORMS = "USD, { usd, tokens, inputTokens, outputTokens }, { model, input, maxOutputTokens }";

/** `expected` says what may stand here. */
export function cost(expected: string) {
  return z.union(
    [
      usd(),
      z.strictObject({ usd: usd().optional(), tokens: tokens().optional(), inputTokens: tokens().optional(), outputTokens: tokens().optional() }),
      z.strictObject({ model: z.string().min(1), input: z.unknown().optional(), maxOutputTokens: tokens() }),
    ],
    { error: expected },
  );
}

export type WrittenCost = z.output<ReturnType<typeof cost>>;

/** USD and tokens as written; an absent amount is not held. */
export type ResolvedCost =
  | {
      readonly kind: "amounts";
      readonly usd?: number | undefined;
      readonly tokens?: number | undefined;
      readonly inputTokens?: number | undefined;
      readonly outputTokens?: number | undefined;
    }
  | { readonly kind: "model"; readonly model: string; readonly input?: unknown; readonly maxOutputTokens: number };

export function costOf(written: WrittenCost): ResolvedCost {
  if (typeof written === "number") return { kind: "amounts", usd: written };
  return "model" in written ? { kind: "model", ...written } : { kind: "amounts", ...written };
}
