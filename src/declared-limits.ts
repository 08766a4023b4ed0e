import { ConfigError } from "./core/errors.ts";
import { sameCounter, type LimitDefinition } from "./limits/limit.ts";

/** The limits of all places are one set: a name is one limit, whoever writes it down. */
export function declare(declared: Map<string, LimitDefinition>, limit: LimitDefinition): void {
  const known = declared.get(limit.name) ?? limit;
  if (!sameCounter(known, limit)) {
    throw new ConfigError([`limits: ${limit.name} is defined twice with different scope, unit or period; give one of them another name`]);
  }
  // Only one of them would count. What functions say cannot be compared.
  if (JSON.stringify(known) !== JSON.stringify(limit)) {
    throw new ConfigError([
      `limits: ${limit.name} is defined twice with different numbers or policies; define it once and name it elsewhere: limits: ["${limit.name}"]`,
    ]);
  }
  declared.set(limit.name, known);
}
