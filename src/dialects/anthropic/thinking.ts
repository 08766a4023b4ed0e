import type { Losses } from "../losses.ts";
import type { ChatRequest, JsonObject } from "../message.ts";
import { budgetOf, nearestLevel } from "../reasoning.ts";
import { fieldsOf } from "../usage.ts";

/** The least that Anthropic takes. */
const LEAST_BUDGET = 1_024;

/** How a model can be asked to think. `adaptive` = by an effort, and as much as it takes. */
type Capability = "none" | "budget" | "adaptive";

const VERSION = /claude-(?:(opus|sonnet|haiku|fable|mythos)-)?(\d+)(?:[.-](\d{1,2}))?(?!\d)/i;

/** By the model's name, since Anthropic tells it nowhere. Models of unknown names think by a budget. */
export function capabilityOf(model: string): Capability {
  const found = VERSION.exec(model);
  if (!found) return "budget";
  const major = Number(found[2]);
  const minor = Number(found[3] ?? 0);
  if (major < 3 || (major === 3 && minor < 7)) return "none";
  return major > 4 || (major === 4 && minor >= 6) ? "adaptive" : "budget";
}

/** Whether the answer to a call must begin with thoughts that are no longer there: Anthropic refuses to think on then. */
function lacksThoughts(messages: readonly JsonObject[]): boolean {
  const last = messages.findLast(({ role }) => role === "assistant");
  const content = Array.isArray(last?.content) ? (last.content as readonly unknown[]).map(fieldsOf) : [];
  if (!content.some((block) => block?.type === "tool_use")) return false;
  return content[0]?.type !== "thinking" && content[0]?.type !== "redacted_thinking";
}

/** `thinking` and what belongs to it; empty = the request says nothing of it. */
export function thinkingOf(request: ChatRequest, maxTokens: number, messages: readonly JsonObject[], losses: Losses): JsonObject {
  const { reasoning, toolChoice, model } = request;
  if (reasoning === null) return {};
  const capability = capabilityOf(model);
  if (reasoning.level === "none") return capability === "adaptive" ? { thinking: { type: "disabled" } } : {};
  const isForced = toolChoice?.kind === "required" || toolChoice?.kind === "tool";
  if (capability === "none" || isForced || lacksThoughts(messages)) {
    losses.drops("reasoning");
    return {};
  }
  if (capability === "adaptive") {
    const thinking = { type: "adaptive" };
    if (reasoning.level === "auto") return { thinking };
    return { thinking, output_config: { effort: nearestLevel(reasoning.level, ["low", "medium", "high", "max"]) } };
  }
  const wanted = budgetOf(reasoning.level === "auto" ? { level: "medium", budgetTokens: null } : reasoning);
  // Thoughts are part of the output.
  const budget = Math.min(Math.max(wanted, LEAST_BUDGET), maxTokens - 1);
  if (budget < LEAST_BUDGET) {
    losses.drops("reasoning");
    return {};
  }
  return { thinking: { type: "enabled", budget_tokens: budget } };
}
