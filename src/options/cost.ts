/** What one request costs, as it is written: in `budgets()` on a host's own route, and for paths that are passed through. */
import { z } from "zod";
import { UNITS, type Unit } from "../core/store.ts";

const usd = () => z.number().min(0).max(4_000_000);
const tokens = () => z.number().int().min(0).max(4_000_000_000_000_000);

export const COST_FORMS = "USD, { usd, tokens, inputTokens, outputTokens }, { model, input, maxOutputTokens }";

/** `expected` says what may stand here. */
export function cost(expected: string) {
  return z.union(
    [
      usd(),
      z.strictObject({
        usd: usd().optional(),
        tokens: tokens().optional(),
        inputTokens: tokens().optional(),
        outputTokens: tokens().optional(),
        // Whoever names a model means the other form.
        model: z.never().optional(),
      }),
      z.strictObject({
        model: z.string().min(1),
        input: z.unknown().optional(),
        maxOutputTokens: tokens(),
        /** Images that may be made, where they are billed one by one. */
        images: z.number().int().min(0).max(1_000).optional(),
      }),
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
  | {
      readonly kind: "model";
      readonly model: string;
      readonly input?: unknown;
      readonly maxOutputTokens: number;
      readonly images?: number | undefined;
    };

/** Whether a cost says how much of a unit is held. Requests and places count themselves. */
export function isCovered(said: ResolvedCost, unit: Unit): boolean {
  return toldBy(said).has(unit);
}

function toldBy(said: ResolvedCost): ReadonlySet<Unit> {
  if (said.kind === "model") return new Set(UNITS);
  const told = new Set<Unit>(["requests", "concurrent"]);
  const { usd: money, tokens: all, inputTokens, outputTokens } = said;
  if (money !== undefined) told.add("usd");
  if (inputTokens !== undefined) told.add("input_tokens").add("tokens");
  if (outputTokens !== undefined) told.add("output_tokens").add("tokens");
  if (all !== undefined) told.add("tokens");
  return told;
}

export function costOf(written: WrittenCost): ResolvedCost {
  if (typeof written === "number") return { kind: "amounts", usd: written };
  return written.model === undefined ? { kind: "amounts", ...written } : { kind: "model", ...written };
}
