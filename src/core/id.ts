import { randomBytes } from "node:crypto";

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";

/** All that two characters can count: most of a new id is the one before. */
const PAIRS = Array.from({ length: 32 ** 2 }, (_, value) => base32(value, 2));

/** What five characters can count. */
const MOST_PER_MS = 32 ** 5 - 1;

function base32(value: number, length: number): string {
  let text = "";
  for (let rest = value, i = 0; i < length; i += 1) {
    text = ALPHABET[rest % 32] + text;
    rest = Math.floor(rest / 32);
  }
  return text;
}

/**
 * A factory of process-unique, time-ordered ids: 9 characters of time (ms), 10 random ones for this process, 5 of a counter.
 * They name requests and rows; they are not secrets and need not be unguessable.
 */
export function idFactory(now: () => number): () => string {
  const process = Array.from(randomBytes(10), (byte) => ALPHABET[byte % 32]).join("");
  let time = -1;
  let prefix = "";
  /** The prefix and all of the counter but its last two characters. */
  let head = "";
  let counter = 0;
  return () => {
    const ms = now();
    if (ms > time || counter === MOST_PER_MS) {
      // A clock that stands still (or was put back) must not bring an id back.
      time = Math.max(ms, time + 1);
      counter = 0;
      prefix = base32(time, 9) + process;
      head = `${prefix}000`;
    }
    counter += 1;
    const last = counter % PAIRS.length;
    if (last === 0) head = prefix + base32(counter / PAIRS.length, 3);
    return head + (PAIRS[last] as string);
  };
}
