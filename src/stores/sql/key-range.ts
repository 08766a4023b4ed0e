/**
 * The first key after all keys with this prefix, in the order of their bytes; undefined = there is none, all that follow have it. A range, unlike
 * LIKE, needs no escaping and always uses the index.
 */
export function endOfPrefix(prefix: string): string | undefined {
  const points = Array.from(prefix);
  for (let last = points.pop(); last !== undefined; last = points.pop()) {
    const code = last.codePointAt(0) as number;
    // Lone surrogates have no UTF-8, and so no place in the order of keys.
    if (code < 0x10ffff) return points.join("") + String.fromCodePoint(code === 0xd7ff ? 0xe000 : code + 1);
  }
  return undefined;
}
