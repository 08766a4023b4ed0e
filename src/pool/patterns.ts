/** Model patterns: literal names with `*` for any run of characters, case-sensitive as model names are. */

const MATCHERS = new Map<string, (name: string) => boolean>();

/** Config has few patterns; a host that hands out a list per user may have many. */
const MAX_MATCHERS = 10_000;

/** Compiles a pattern, or finds the one that was compiled before. */
export function patternMatcher(pattern: string): (name: string) => boolean {
  let matcher = MATCHERS.get(pattern);
  if (!matcher) {
    matcher = compile(pattern);
    if (MATCHERS.size >= MAX_MATCHERS) MATCHERS.clear();
    MATCHERS.set(pattern, matcher);
  }
  return matcher;
}

function compile(pattern: string): (name: string) => boolean {
  const pieces = pattern.split("*");
  if (pieces.length === 1) return (name) => name === pattern;
  const [first, last] = [pieces[0] as string, pieces.at(-1) as string];
  const middle = pieces.slice(1, -1);
  // Greedy left to right: no regular expression, so no pattern can be made slow.
  return (name) => {
    if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last)) return false;
    let at = first.length;
    const end = name.length - last.length;
    for (const piece of middle) {
      const found = name.indexOf(piece, at);
      if (found < 0 || found + piece.length > end) return false;
      at = found + piece.length;
    }
    return true;
  };
}

export const matchesAny = (patterns: readonly string[], name: string): boolean => patterns.some((pattern) => patternMatcher(pattern)(name));
