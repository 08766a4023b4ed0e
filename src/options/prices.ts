import { z } from "zod";
import type { PriceRule } from "../metering/price-rules.ts";
import { instant, label, list } from "./values.ts";

const usd = () => {
  const expected = "expected USD as a number of 0 or more, or as decimal text";
  return z.union([z.number().min(0), z.string().regex(/^\d{1,9}(?:\.\d{1,12})?$/, expected)], { error: expected });
};

const rates = () => ({
  /** USD per million tokens, or per thousand: each class in one of the two. */
  inputPerMtok: usd().optional(),
  outputPerMtok: usd().optional(),
  cacheReadPerMtok: usd().optional(),
  cacheWritePerMtok: usd().optional(),
  reasoningPerMtok: usd().optional(),
  inputPerKtok: usd().optional(),
  outputPerKtok: usd().optional(),
  cacheReadPerKtok: usd().optional(),
  cacheWritePerKtok: usd().optional(),
  reasoningPerKtok: usd().optional(),
  /** USD per request, on top. */
  perRequest: usd().optional(),
});

const CLASSES = ["input", "output", "cacheRead", "cacheWrite", "reasoning"] as const;

type Written = { readonly [name in keyof ReturnType<typeof rates>]?: unknown };

/** A class that is left out by mistake must not be free. Only what is priced by the request alone may leave out both. */
function missingClasses(price: Written): readonly ("input" | "output")[] {
  const missing = (["input", "output"] as const).filter((name) => price[`${name}PerMtok`] === undefined && price[`${name}PerKtok`] === undefined);
  return missing.length === 2 && price.perRequest !== undefined ? [] : missing;
}

/** What a model costs. A missing class costs what its base class costs (cache: input, reasoning: output). */
export const priceSchema = () =>
  z
    .strictObject({
      ...rates(),
      /** Of requests whose whole input is larger: all of their tokens. What a tier does not say is as below it. */
      tiers: list(z.strictObject({ aboveInputTokens: z.number().int().min(1).max(1_000_000_000), ...rates() })).optional(),
    })
    .superRefine((price, ctx) => {
      for (const name of missingClasses(price)) {
        ctx.addIssue({ code: "custom", path: [`${name}PerMtok`], message: `say what ${name} costs, 0 if it is free` });
      }
      const begins = new Set<number>();
      for (const { written, path } of [
        { written: price as Written, path: [] },
        ...(price.tiers ?? []).map((tier, i) => ({ written: tier, path: ["tiers", i] })),
      ]) {
        for (const name of CLASSES) {
          if (written[`${name}PerMtok`] === undefined || written[`${name}PerKtok`] === undefined) continue;
          ctx.addIssue({ code: "custom", path: [...path, `${name}PerKtok`], message: `${name}PerMtok says it too; keep one of them` });
        }
      }
      for (const [i, { aboveInputTokens }] of (price.tiers ?? []).entries()) {
        if (begins.has(aboveInputTokens))
          ctx.addIssue({ code: "custom", path: ["tiers", i, "aboveInputTokens"], message: "another tier begins there too" });
        begins.add(aboveInputTokens);
      }
    });

const ruleSchema = z
  .strictObject({
    /** Value of the scope `org`. @default everybody */
    org: label().optional(),
    /** @default every one */
    provider: label().optional(),
    /** Name or pattern, of clients or of the provider. @default every one */
    model: label().optional(),
    /** @default as if the rule were not there */
    price: priceSchema().optional(),
    /** Percent on top of what the provider bills. @default prices.markupPct */
    markupPct: z.number().min(0).max(10_000).optional(),
    /** When it begins to count. @default always */
    from: instant().optional(),
    /** When it no longer counts. @default never */
    until: instant().optional(),
  })
  .superRefine(({ price, markupPct, from, until }, ctx) => {
    if (price === undefined && markupPct === undefined) ctx.addIssue({ code: "custom", message: "says neither a price nor a markupPct" });
    if (from !== undefined && until !== undefined && from >= until) ctx.addIssue({ code: "custom", path: ["until"], message: "must be after from" });
  });

export const pricesSchema = z.strictObject({
  /** Percent on top of what the provider bills. */
  markupPct: z.number().min(0).max(10_000).default(0),
  /** Before all other prices; the most specific one counts. */
  rules: list(ruleSchema)
    .superRefine((rules, ctx) => {
      const seen = new Map<string, number>();
      for (const [i, { org, provider, model, from, ...says }] of rules.entries()) {
        for (const what of ["price", "markupPct"] as const) {
          if (says[what] === undefined) continue;
          const id = JSON.stringify([what, org, provider, model, from]);
          const before = seen.get(id);
          if (before === undefined) seen.set(id, i);
          else
            ctx.addIssue({
              code: "custom",
              path: [i, what],
              message: `prices.rules[${before}] says it of the same; keep one of them, or say from when`,
            });
        }
      }
    })
    .default([]),
});

export interface ResolvedPrices {
  readonly markupPct: number;
  readonly rules: readonly PriceRule[];
}
