import type { ChatRequest } from "./message.ts";

/** What a provider takes as a tool's name. */
export interface NameRule {
  readonly maxLength: number;
  /** One character that may stand in a name. */
  readonly allowed: RegExp;
  /** One character that a name may begin with; absent = any that is allowed. */
  readonly first?: RegExp;
}

export interface ToolNames {
  /** The name to send for one of the caller's. */
  sent(name: string): string;
  /** The caller's name for one that came back; a name that was never sent stays as it is. */
  original(sent: string): string;
}

/** `_` and the number of a name that was taken. */
const LONGEST_SUFFIX = 7;

/** Servers of tools put their own name before the tool's: that of the tool tells more. */
const MCP = /^mcp__.*__(?=[^_]|_[^_])/s;

/** Names of tools that the conversation knows, declared or only called. */
export const namesIn = ({ tools, turns }: ChatRequest): readonly string[] => [
  ...tools.flatMap((tool) => (tool.kind === "web_search" ? [] : [tool.name])),
  ...turns.flatMap(({ blocks }) => blocks.flatMap((block) => (block.type === "tool_call" ? [block.name] : []))),
];

/** Makes names that a provider takes out of those that the caller has: each its own, the same ones for the same request, and restored in the answer. */
export function toolNames(names: Iterable<string>, rule: NameRule): ToolNames {
  const sent = new Map<string, string>();
  const original = new Map<string, string>();
  const all = [...new Set(names)];
  /** The next number behind a name, by what is left of it in front of one: tens of thousands of names may want the same. */
  const numbers = new Map<string, number>();
  // Names that may stay as they are come first: nobody else takes theirs.
  for (const name of [...all.filter((each) => fits(each, rule)), ...all.filter((each) => !fits(each, rule))]) {
    const wanted = fitted(name, rule);
    let chosen = wanted;
    const stem = wanted.slice(0, rule.maxLength - LONGEST_SUFFIX);
    for (let n = numbers.get(stem) ?? 2; original.has(chosen); n += 1) {
      const suffix = `_${n}`;
      chosen = wanted.slice(0, rule.maxLength - suffix.length) + suffix;
      numbers.set(stem, n + 1);
    }
    sent.set(name, chosen);
    original.set(chosen, name);
  }
  return {
    sent: (name) => sent.get(name) ?? fitted(name, rule),
    original: (name) => original.get(name) ?? name,
  };
}

const fits = (name: string, rule: NameRule): boolean => fitted(name, rule) === name;

function fitted(name: string, { maxLength, allowed, first }: NameRule): string {
  let text = Array.from(name, (char) => (allowed.test(char) ? char : "_")).join("");
  if (text === "" || (first && !first.test(text[0] as string))) text = `_${text}`;
  if (text.length <= maxLength) return text;
  const short = text.replace(MCP, "mcp__");
  return short.length <= maxLength ? short : short.slice(0, maxLength);
}
