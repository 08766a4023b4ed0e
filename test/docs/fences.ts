// What a page of the documentation holds besides prose: its code fences, with what the HTML comments before them say.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

export interface Fence {
  readonly page: string;
  /** Of its first line of code, from 1. */
  readonly line: number;
  readonly language: string;
  readonly code: string;
  /** `with: app, openai` = names that the snippet may take for given. */
  readonly given: readonly string[];
  /** Part of the program before it. */
  readonly isContinued: boolean;
  /** What the program prints, although a request stands before it. */
  readonly isPrinted: boolean;
  /** `not run: …` = why nobody can. */
  readonly notRun: string | null;
}

/** The pages that people write: README, docs/ and whatever else is published, without the generated reference. */
export function documentPages(): readonly string[] {
  const below = readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" });
  const pages = below.filter((file) => file.endsWith(".md") && !/^api[\\/]/.test(file)).map((file) => `docs/${file.replaceAll("\\", "/")}`);
  return ["README.md", ...pages.toSorted()];
}

export const pageText = (page: string): string => readFileSync(join(ROOT, page), "utf8");

const FENCE = /^```(\S*)[^\n]*\n([\s\S]*?)^```$/gm;
const COMMENTS = /(?:<!--(?:(?!-->)[\s\S])*-->\s*)+$/;

/**
 * All fences of a page, in order. Those inside an HTML comment count, too: a reader does not see them, and they are run like the others. That is the place
 * for requests which would only bore.
 */
export function fencesOf(page: string): readonly Fence[] {
  const text = pageText(page);
  return [...text.matchAll(FENCE)].map((match) => {
    const before = text.slice(0, match.index);
    // A fence may itself stand in a comment that is still open.
    const said = COMMENTS.exec(before.replace(/<!--\s*$/, ""))?.[0] ?? "";
    const listed = /<!-- with: ([^>]*?) -->/.exec(said)?.[1] ?? "";
    return {
      page,
      line: before.split("\n").length + 1,
      language: match[1] ?? "",
      code: match[2] ?? "",
      given: listed.split(",").flatMap((name) => (name.trim() === "" ? [] : [name.trim()])),
      isContinued: said.includes("<!-- continued -->"),
      isPrinted: said.includes("<!-- printed -->"),
      notRun: /<!-- not run: ([^>]*?) -->/.exec(said)?.[1] ?? null,
    };
  });
}
