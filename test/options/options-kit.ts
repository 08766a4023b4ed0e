import { ConfigError } from "../../src/core/errors.ts";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";

/** The lines that bad options are refused with; none when they are good. */
export function problemsOf(options: unknown): readonly string[] {
  try {
    resolveOptions(options as GuardOptions);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}
