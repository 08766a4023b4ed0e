/**
 * Reasoning models refuse parameters that the chat models before them took. Clients go on sending them, so they are taken out of the request
 * rather than left for the provider to refuse.
 */
export interface ParameterRule {
  /** Top-level fields that the model does not take. `max_tokens` is not among them: its value goes under the name that the model knows. */
  readonly drop: readonly string[];
}

/** The field that caps a reasoning model's answer; `max_tokens` is refused. */
export const REASONING_CAP = "max_completion_tokens";

const SAMPLING = ["temperature", "top_p"];

const RULES: ReadonlyMap<string, ParameterRule> = new Map([
  ["o1", { drop: [...SAMPLING, "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs"] }],
  ["o3", { drop: SAMPLING }],
  ["o4", { drop: SAMPLING }],
  ["gpt-5", { drop: SAMPLING }],
]);

/** A family's own name, alone or with a variant behind it, also behind a prefix: `o1`, `O3-mini`, `gpt-5.1`, `o3_chat`, `azure:o1`, `ft:o4-mini:x`. */
const FAMILY = new RegExp(`^(?:[^:]*:)?(${[...RULES.keys()].join("|")})(?:[-.:]|_chat(?::|$)|$)`, "i");

/** Clients make model names up, so what is known about them has a bound. */
const MOST_KNOWN = 1_000;
const known = new Map<string, ParameterRule | null>();

/** What a model refuses, by its name at the provider; null = it takes whatever chat models take. */
export function parameterRule(model: string): ParameterRule | null {
  const rule = known.get(model);
  if (rule !== undefined) return rule;
  // In `openai/o1` only the last part is the model's own name: `o1-labs/llama` is none of the family.
  const family = FAMILY.exec(model.slice(model.lastIndexOf("/") + 1))?.[1]?.toLowerCase();
  const found = (family === undefined ? undefined : RULES.get(family)) ?? null;
  if (known.size >= MOST_KNOWN) known.clear();
  known.set(model, found);
  return found;
}
