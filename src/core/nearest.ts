/** Finds what somebody meant to write: every "did you mean" of the configuration comes from here. */

/** Case, `_` and `-` do not count: `api_key`, `apiKey` and `API-KEY` are the same word. */
const plain = (word: string): string => word.toLowerCase().replace(/[_-]/g, "");

/** Longer words are not mistyped option names, and the table grows with the product of the lengths. */
const MAX_LENGTH = 64;

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min((last[j] as number) + 1, (row[j - 1] as number) + 1, (last[j - 1] as number) + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) cost = Math.min(cost, (beforeLast[j - 2] as number) + 1);
      row.push(cost);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] as number;
}

/** The candidate closest to `word`, the first of equals; undefined when none is close enough to be meant. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length > MAX_LENGTH) return undefined;
  const wanted = plain(word);
  let best: string | undefined;
  let bestDistance = Infinity;
  let beginning: string | undefined;
  for (const candidate of candidates) {
    const have = plain(candidate);
    const distance = editDistance(wanted, have);
    // A third of the word may be wrong; more than that and the guess would mislead.
    if (distance < bestDistance && distance <= Math.max(1, Math.floor(Math.max(wanted.length, have.length) / 3))) {
      best = candidate;
      bestDistance = distance;
    }
    if (wanted.length >= 4 && have.startsWith(wanted)) beginning ??= candidate;
  }
  return best ?? beginning;
}

/** `; did you mean x?`, or nothing. */
export function hint(word: string, candidates: Iterable<string>): string {
  const found = nearest(word, candidates);
  return found === undefined ? "" : `; did you mean ${found}?`;
}
