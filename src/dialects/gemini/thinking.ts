import type { Losses } from "../losses.ts";
import type { ChatRequest, JsonObject, ReasoningLevel } from "../message.ts";
import { budgetOf, nearestLevel } from "../reasoning.ts";

interface Budgets {
  readonly kind: "budget";
  readonly least: number;
  readonly most: number;
  /** Whether it can do without. */
  readonly canStop: boolean;
}

interface Levels {
  readonly kind: "level";
  readonly levels: readonly ReasoningLevel[];
}

const FAMILIES: readonly (readonly [RegExp, Budgets | Levels])[] = [
  [/gemini-2\.5-pro/i, { kind: "budget", least: 128, most: 32_768, canStop: false }],
  [/gemini-2\.5-flash-lite/i, { kind: "budget", least: 512, most: 24_576, canStop: true }],
  [/gemini-2\.5/i, { kind: "budget", least: 1, most: 24_576, canStop: true }],
  [/gemini-(?:[3-9]|\d{2,}).*flash/i, { kind: "level", levels: ["minimal", "low", "medium", "high"] }],
  [/gemini-(?:[3-9]|\d{2,})/i, { kind: "level", levels: ["low", "high"] }],
  // Claude behind Google's API.
  [/claude/i, { kind: "budget", least: 1_024, most: 64_000, canStop: true }],
];

/** How a model of Google's is asked to think; null = the request says nothing of it, or the model cannot. */
export function thinkingConfig({ reasoning, model }: ChatRequest, losses: Losses): JsonObject | null {
  if (!reasoning) return null;
  const known = FAMILIES.find(([name]) => name.test(model))?.[1];
  if (!known) {
    losses.drops("reasoning");
    return null;
  }
  const includeThoughts = reasoning.wantsThoughts ?? reasoning.level !== "none";
  if (known.kind === "level") {
    if (reasoning.level === "auto") return { includeThoughts };
    return { thinkingLevel: nearestLevel(reasoning.level, known.levels), includeThoughts };
  }
  const wanted = budgetOf(reasoning);
  if (wanted < 0) return { thinkingBudget: -1, includeThoughts };
  if (wanted === 0) return { thinkingBudget: known.canStop ? 0 : known.least, includeThoughts: false };
  return { thinkingBudget: Math.min(Math.max(wanted, known.least), known.most), includeThoughts };
}
