import { z } from "zod";
import type { PriceRule } from "../metering/price-rules.ts";
import { RATE_NAMES, type RateName } from "../metering/price.ts";
import { duration, instant, label, list } from "./values.ts";

const usd = () => {
  const expected = "expected USD as a number of 0 or more, or as decimal text";
  return z.union([z.number().min(0), z.string().regex(/^\d{1,9}(?:\.\d{1,12})?$/, expected)], { error: expected });
};

const UNITS = ["Mtok", "Ktok"] as const;
type TokenRate = `${RateName}Per${(typeof UNITS)[number]}`;
const TOKEN_RATES: readonly TokenRate[] = UNITS.flatMap((unit) => RATE_NAMES.map((name): TokenRate => `${name}Per${unit}`));

const rates = () => ({
  /** USD per million tokens, or per thousand: each class in one of the two. */
  ...(Object.fromEntries(TOKEN_RATES.map((name) => [name, usd().optional()])) as { [name in TokenRate]: z.ZodOptional<ReturnType<typeof usd>> }),
  /** USD per request, on top. */
  perRequest: usd().optional(),
  /** USD per image made, on top. */
  perImage: usd().optional(),
});

type Written = { readonly [name in keyof ReturnType<typeof rates>]?: unknown };

/** A class that is left out by mistake must not be free. Only what is priced by the request or image alone may leave out both. */
function missingClasses(price: Written): readonly ("input" | "output")[] {
  const missing = (["input", "output"] as const).filter((name) => price[`${name}PerMtok`] === undefined && price[`${name}PerKtok`] === undefined);
  return missing.length === 2 && (price.perRequest !== undefined || price.perImage !== undefined) ? [] : missing;
}

/** What a model costs. A missing class costs what its base class costs (caches, audio and images in the prompt: input; reasoning and the like: output). */
export const priceSchema = () =>
  z
    .strictObject({
      ...rates(),
      /** Of requests whose whole input is larger. What a tier does not say is as below it. */
      tiers: list(z.strictObject({ aboveInputTokens: z.number().int().min(1).max(1_000_000_000), ...rates() })).optional(),
      /** `request`: all tokens of such a request. `excess`: its input beyond that number, and its output beyond it. @default request */
      tiersApplyTo: z.enum(["request", "excess"]).optional(),
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
        for (const name of RATE_NAMES) {
          if (written[`${name}PerMtok`] === undefined || written[`${name}PerKtok`] === undefined) continue;
          ctx.addIssue({ code: "custom", path: [...path, `${name}PerKtok`], message: `${name}PerMtok says it too; keep one of them` });
        }
      }
      for (const [i, { aboveInputTokens, perRequest, perImage }] of (price.tiers ?? []).entries()) {
        if (price.tiersApplyTo === "excess" && (perRequest !== undefined || perImage !== undefined)) {
          const path = ["tiers", i, perRequest === undefined ? "perImage" : "perRequest"];
          ctx.addIssue({ code: "custom", path, message: "a request has no excess; say it beside the tiers, not in one" });
        }
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

export const isPriceUrl = (file: string): boolean => /^[a-z][a-z0-9+.-]+:\/\//i.test(file);

/** Prices decide what is held and billed, so nobody on the way may change them. */
function fileProblem(file: string, ctx: z.RefinementCtx): void {
  if (!isPriceUrl(file)) return;
  const url = URL.canParse(file) ? new URL(file) : null;
  const message = !url
    ? "is not a valid URL"
    : url.username !== "" || url.password !== ""
      ? "must not contain a user or password"
      : url.protocol === "https:" || (url.protocol === "http:" && isHere(url.hostname))
        ? null
        : "must be a path or an https:// URL; http:// only for an address of this machine";
  if (message !== null) ctx.addIssue({ code: "custom", message });
}

const isHere = (hostname: string): boolean => hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname);

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
  /** Paths or URLs of price lists, in the shape of LiteLLM's or of models.dev's. The first that prices a model counts. */
  files: list(label(2_048).superRefine(fileProblem)).default([]),
  /** Whether the price book that comes along is asked last. Turned off, it is not loaded. */
  book: z.boolean().default(true),
  /** How often they are read again. */
  refresh: duration(1_000).default(3_600_000),
});

export const resolvePrices = ({ refresh, ...prices }: z.output<typeof pricesSchema>): ResolvedPrices => ({ ...prices, refreshMs: refresh });

export interface ResolvedPrices {
  readonly markupPct: number;
  readonly files: readonly string[];
  readonly book: boolean;
  readonly refreshMs: number;
  readonly rules: readonly PriceRule[];
}
