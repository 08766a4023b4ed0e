import type { LimitDefinition, LimitFacts } from "../../src/limits/limit.ts";

export const FACTS: LimitFacts = { scopes: {}, principal: undefined, req: undefined as never };

export function definition(more: Partial<LimitDefinition> = {}): LimitDefinition {
  return {
    name: "user-tokens",
    scope: ["user"],
    unit: "tokens",
    kind: { bucket: { capacity: 100, refillPerSec: 1 } },
    mode: "enforce",
    onStoreError: "deny",
    overrides: {},
    whenShort: "refuse",
    estimate: "ceiling",
    ...more,
  };
}
