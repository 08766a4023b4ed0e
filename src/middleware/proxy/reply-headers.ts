/** What we say in the headers of an answer. */

/** Longer than a list of dropped fields has to be. */
const MOST_CHARS = 1_000;

/** A client may have made the name up, and not every character may stand in a header. */
export const headerValue = (name: string): string => (/^[\x21-\x7e]+$/.test(name) ? name : encodeURIComponent(name.toWellFormed()));

/** `temperature, seed`; of very many the rest is `...`. */
export function listOfNames(names: readonly string[]): string {
  let list = "";
  for (const name of names) {
    const next = headerValue(name).replaceAll(",", "%2C");
    if (list.length + next.length > MOST_CHARS) return list === "" ? "..." : `${list}, ...`;
    list += list === "" ? next : `, ${next}`;
  }
  return list;
}

/** Of the provider's headers those that are still true of other bytes, with what these are. */
export function rewritten(headers: readonly string[], type: string): string[] {
  const kept = ["content-type", type];
  for (let i = 0; i < headers.length; i += 2) if (headers[i] === "x-upstream-request-id") kept.push(headers[i] as string, headers[i + 1] as string);
  return kept;
}
