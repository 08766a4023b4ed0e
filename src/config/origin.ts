/** Where each option came from, for messages and for `quotaguard check`. */
import { formatPath, type OptionNode, type OptionPath } from "../options/tree.ts";

export type Origin =
  | {
      readonly kind: "file";
      readonly file: string;
      readonly line: number;
      readonly column: number;
      /** What the file calls it, where that is not what we do: another program's file, or a list that continues in a second one. */
      readonly name?: string;
    }
  | { readonly kind: "env"; readonly name: string; readonly note?: string | undefined }
  | { readonly kind: "flag" }
  /** What another program does when its file says nothing. */
  | { readonly kind: "assumed"; readonly program: string };

/** Option path in file spelling -> origin. What is not in it is a default. */
export type Origins = Map<string, Origin>;

/**
 * Where an option stands and what it is called there. Without a place of its own it has that of the nearest thing around it that was written: a
 * missing option has no line.
 */
export function placeOf(origins: Origins, names: OptionNode, path: OptionPath): { readonly origin: Origin | undefined; readonly name: string } {
  const name = formatPath(names, path, "file");
  for (let length = path.length; length > 0; length -= 1) {
    const around = formatPath(names, path.slice(0, length), "file");
    const origin = origins.get(around);
    if (!origin) continue;
    const written = origin.kind === "file" ? origin.name : undefined;
    return { origin, name: written === undefined ? name : `${written}${name.slice(around.length)}` };
  }
  return { origin: undefined, name };
}

/** The beginning of a message's line: `quotaguard.yaml:12:5`, `env PORT`. */
export function originLabel(origin: Origin): string {
  if (origin.kind === "file") return `${origin.file}:${origin.line}:${origin.column}`;
  if (origin.kind === "assumed") return `default of ${origin.program}`;
  return origin.kind === "env" ? `env ${origin.name}` : "flag";
}

/** As a table shows it: `quotaguard.yaml:12`, `env PORT`, `flag`, `default of auto_ai_router`. */
export function sourceLabel(origin: Origin): string {
  return origin.kind === "file" ? `${origin.file}:${origin.line}` : originLabel(origin);
}
