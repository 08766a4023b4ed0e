import type { Family, WireId } from "../core/call.ts";
import type { ProviderRow } from "../core/credential.ts";

/** Families of the dialects' own models. */
const FAMILIES: Readonly<Record<WireId, Family>> = {
  openai: "openai",
  responses: "openai",
  anthropic: "anthropic",
  gemini: "gemini",
  kiro: "anthropic",
};

/** The family of a provider's model. */
export function familyOf({ family, dialect }: Pick<ProviderRow, "family" | "dialect">, model: string): Family {
  return (typeof family === "function" ? family(model) : family) ?? FAMILIES[dialect];
}
