/** Where each option came from, for messages and for `quotaguard check`. */
import { formatPath, type OptionNode, type OptionPath } from "../options/tree.ts";

export type Origin =
  | { readonly kind: "file"; readonly file: string; readonly line: number; readonly column: number }
  | { readonly kind: "env"; readonly name: string; readonly note?: string | undefined }
  | { readonly kind: "flag" };

/** Option path in file spelling -> origin. What is not in it is a default. */
export type Origins = Map<string, Origin>;

/** The origin of an option, or of the nearest thing around it that was written: a missing option has no line of its own. */
export function originOf(origins: Origins, names: OptionNode, path: OptionPath): Origin | undefined {
  for (let length = path.length; length > 0; length -= 1) {
    const found = origins.get(formatPath(names, path.slice(0, length), "file"));
    if (found) return found;
  }
  return undefined;
}

/** The beginning of a message's line: `quotaguard.yaml:12:5`, `env PORT`. */
export function originLabel(origin: Origin): string {
  if (origin.kind === "file") return `${origin.file}:${origin.line}:${origin.column}`;
  return origin.kind === "env" ? `env ${origin.name}` : "flag";
}

/** As a table shows it: `quotaguard.yaml:12`, `env PORT`, `flag`. */
export function sourceLabel(origin: Origin): string {
  return origin.kind === "file" ? `${origin.file}:${origin.line}` : originLabel(origin);
}
