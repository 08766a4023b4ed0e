import type { Losses } from "../losses.ts";
import type { ChatRequest, JsonObject, ReasoningLevel } from "../message.ts";
import { PLAIN_MODEL } from "../openai/encode-request.ts";
import { parameterRule } from "../openai/parameters.ts";
import { nearestLevel } from "../reasoning.ts";

const NAME = /(?:^|[/:])(?:o\d|gpt-(\d+)(?:\.(\d+))?)(-codex)?(-max)?/i;

/** The efforts that a model knows, by its name; one of an unknown name is taken at its word. */
export function levelsOf(model: string): readonly ReasoningLevel[] {
  const [found, major, minor = "0", codex, max] = NAME.exec(model) ?? [];
  if (found === undefined) return ["none", "minimal", "low", "medium", "high", "xhigh"];
  if (major === undefined) return ["low", "medium", "high"];
  const version = Number(major) + Number(minor) / 10;
  if (codex !== undefined) return version >= 5.2 || max !== undefined ? ["low", "medium", "high", "xhigh"] : ["low", "medium", "high"];
  if (version < 5.1) return ["minimal", "low", "medium", "high"];
  return version < 5.2 ? ["none", "low", "medium", "high"] : ["none", "low", "medium", "high", "xhigh"];
}

/** Whether a model reasons, as far as its name or the caller tells. */
export const reasons = ({ model, reasoning }: ChatRequest): boolean =>
  parameterRule(model) !== null || (reasoning !== null && reasoning.level !== "none" && !PLAIN_MODEL.test(model));

/** `reasoning`; null = the request says nothing of it. */
export function reasoningOf({ model, reasoning }: ChatRequest, losses: Losses): JsonObject | null {
  if (reasoning === null) return null;
  if (PLAIN_MODEL.test(model)) {
    if (reasoning.level !== "none") losses.drops("reasoning");
    return null;
  }
  const { level, wantsThoughts } = reasoning;
  // Left to itself, a model that can think decides by itself how much.
  const effort = level === "auto" ? {} : { effort: nearestLevel(level, levelsOf(model)) };
  const asked = { ...effort, ...(wantsThoughts === true ? { summary: "auto" } : {}) };
  return Object.keys(asked).length === 0 ? null : asked;
}
