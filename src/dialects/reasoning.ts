import { REASONING_LEVELS, type Reasoning, type ReasoningLevel } from "./message.ts";

/** Tokens of thought that a level stands for, where a model takes a number; -1 = the model decides. */
const BUDGETS: Readonly<Record<ReasoningLevel, number>> = {
  none: 0,
  auto: -1,
  minimal: 512,
  low: 1_024,
  medium: 8_192,
  high: 24_576,
  xhigh: 32_768,
  max: 128_000,
};

export const budgetOf = ({ level, budgetTokens }: Pick<Reasoning, "level" | "budgetTokens">): number => budgetTokens ?? BUDGETS[level];

/** The level that a number of tokens stands for. */
export function levelOf(budgetTokens: number): ReasoningLevel {
  if (budgetTokens < 0) return "auto";
  if (budgetTokens === 0) return "none";
  if (budgetTokens <= BUDGETS.minimal) return "minimal";
  if (budgetTokens <= BUDGETS.low) return "low";
  if (budgetTokens <= BUDGETS.medium) return "medium";
  return budgetTokens <= BUDGETS.high ? "high" : "xhigh";
}

/** The nearest of the levels that a model has, upwards if two are as near. Without `none` the lowest stands for it, without `auto` the middle. */
export function nearestLevel(wanted: ReasoningLevel, known: readonly ReasoningLevel[]): ReasoningLevel {
  if (known.includes(wanted)) return wanted;
  const levels = REASONING_LEVELS.filter((level) => level !== "none" && level !== "auto" && known.includes(level));
  if (levels.length === 0) return known[0] ?? wanted;
  if (wanted === "none") return levels[0] as ReasoningLevel;
  if (wanted === "auto") return levels[Math.floor((levels.length - 1) / 2)] as ReasoningLevel;
  const at = REASONING_LEVELS.indexOf(wanted);
  return levels.reduce((best, level) => {
    const [near, far] = [Math.abs(REASONING_LEVELS.indexOf(level) - at), Math.abs(REASONING_LEVELS.indexOf(best) - at)];
    return near <= far ? level : best;
  });
}

const SUFFIX = /^(.+)\(([^()]{1,16})\)$/s;

/** Takes `name(level)` apart: a level, a number of tokens, `none`, `auto` or `-1`. Null = the name has no such suffix. */
export function reasoningSuffix(model: string): { readonly model: string; readonly reasoning: Reasoning } | null {
  const [, name, value] = SUFFIX.exec(model) ?? [];
  if (name === undefined || value === undefined) return null;
  const said = value.trim().toLowerCase();
  const level = (REASONING_LEVELS as readonly string[]).includes(said) ? (said as ReasoningLevel) : null;
  if (level !== null) return { model: name, reasoning: { level, budgetTokens: null, wantsThoughts: null } };
  if (!/^(?:-1|\d{1,7})$/.test(said)) return null;
  const budgetTokens = Number(said);
  return { model: name, reasoning: { level: levelOf(budgetTokens), budgetTokens, wantsThoughts: null } };
}
