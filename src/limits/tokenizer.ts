import { ConfigError } from "../core/errors.ts";

/** How many tokens a text has. Pure, never throws, 0 for the empty text. */
export type Tokenizer = (text: string) => number;

/**
 * Why a heuristic of our own: the real vocabulary costs 30 MB of disk, 66 MB of memory and an order of magnitude more time per character, and a
 * hold only needs a figure that is near and seldom low. The text is read once, in the pieces that OpenAI's o200k_base pattern makes of it
 * (words with their leading space, up to three digits, punctuation runs, white space), and each piece costs what such pieces cost on average.
 * `test/limits/tokenizer.test.ts` holds it against the real vocabulary.
 */

// Character classes. The order matters: everything from LOWER on starts a word.
const OTHER = 0;
const SPACE = 1;
const TAB = 2;
const NEWLINE = 3;
const DIGIT = 4;
const PUNCTUATION = 5;
const SYMBOL = 6;
const PAIR = 7;
const LOWER = 8;
const UPPER = 9;
const ACCENTED = 10;
// Scripts whose runs are charged by the character, see RUN_BASE and RUN_PER_CHAR.
const CYRILLIC = 11;
const CYRILLIC_UPPER = 12;
const CYRILLIC_RARE = 13;
const ALPHABET = 14;
const ABUGIDA = 15;
const HAN = 16;
const KANA = 17;
const SYLLABLE = 18;
const GREEK_THAI = 19;
const RARE_SCRIPT = 20;

const CLASS = new Uint8Array(0x10000).fill(RARE_SCRIPT);

function assign(kind: number, ...ranges: readonly (readonly [from: number, to: number])[]): void {
  for (const [from, to] of ranges) CLASS.fill(kind, from, to + 1);
}

assign(OTHER, [0x00, 0x1f], [0x7f, 0x9f]);
assign(PUNCTUATION, [0x21, 0x2f], [0x3a, 0x40], [0x5b, 0x60], [0x7b, 0x7e]);
assign(DIGIT, [0x30, 0x39]);
assign(UPPER, [0x41, 0x5a]);
assign(LOWER, [0x61, 0x7a]);
assign(
  SYMBOL,
  [0xa1, 0xbf],
  [0xd7, 0xd7],
  [0xf7, 0xf7],
  [0x2010, 0x22ff],
  [0x2500, 0x27bf],
  [0x3001, 0x3020],
  [0xfe30, 0xfe4f],
  [0xff00, 0xff0f],
  [0xff1a, 0xff20],
  [0xff5f, 0xff65],
);
assign(ACCENTED, [0xc0, 0xd6], [0xd8, 0xf6], [0xf8, 0x24f], [0x300, 0x36f], [0x1e00, 0x1eff]);
assign(CYRILLIC, [0x430, 0x44f]);
assign(CYRILLIC_UPPER, [0x410, 0x42f]);
assign(CYRILLIC_RARE, [0x400, 0x40f], [0x450, 0x52f]);
assign(ALPHABET, [0x530, 0x6ff], [0x750, 0x77f], [0x10a0, 0x10ff], [0xfb50, 0xfdff], [0xfe70, 0xfefe]);
assign(GREEK_THAI, [0x370, 0x3ff], [0x1f00, 0x1fff], [0xe00, 0xe7f]);
assign(ABUGIDA, [0x900, 0xdff]);
assign(HAN, [0x4e00, 0x9fff]);
assign(KANA, [0x3040, 0x30ff], [0xff66, 0xff9f]);
// Hangul; Lao, Burmese and Khmer cost about as much.
assign(SYLLABLE, [0xac00, 0xd7a3], [0xe80, 0xeff], [0x1000, 0x109f], [0x1780, 0x17ff]);
assign(PAIR, [0xd800, 0xdfff]);
assign(SPACE, [0x20, 0x20], [0xa0, 0xa0], [0x2000, 0x200a], [0x3000, 0x3000]);
assign(TAB, [0x09, 0x09], [0x0b, 0x0c]);
assign(NEWLINE, [0x0a, 0x0a], [0x0d, 0x0d]);

// A run of n characters of such a script costs base + n x perChar, at least 1.
const RUN_BASE = new Float64Array(21);
const RUN_PER_CHAR = new Float64Array(21);

function run(kind: number, base: number, perChar: number): void {
  RUN_BASE[kind] = base;
  RUN_PER_CHAR[kind] = perChar;
}

run(CYRILLIC, 0.35, 0.23);
run(CYRILLIC_UPPER, 0.35, 0.5);
run(CYRILLIC_RARE, 0.35, 0.9);
run(ALPHABET, 0.1, 0.37);
run(ABUGIDA, 0.3, 0.34);
run(HAN, 0.2, 0.9);
run(KANA, 0.2, 0.75);
run(SYLLABLE, 0.3, 0.66);
run(GREEK_THAI, 0.1, 0.44);
run(RARE_SCRIPT, 0, 2.8);

const LONGEST_WORD = 64;

/** Words of Latin letters after a space, by length: English nearly always has them whole. */
const SPACED = wordCosts(1, [1, 1, 1, 1, 1, 1.02, 1.04, 1.07, 1.1, 1.14, 1.22, 1.32, 1.45, 1.6], 0.3);
/** The same after anything else: names in code, the start of a line. */
const UNSPACED = wordCosts(1, [1, 1, 1, 1.02, 1.06, 1.12, 1.2, 1.28, 1.4, 1.6, 1.85, 2.1, 2.35, 2.6], 0.35);
/** What a word costs more where the text is Latin but not English, seen by its accents. */
const FOREIGN = wordCosts(0, [0, 0, 0, 0.04, 0.2, 0.4, 0.55, 0.75, 0.9, 1.1, 1.25, 1.4, 1.5, 1.6], 0.1);

function wordCosts(first: number, byLength: readonly number[], perFurther: number): Float64Array {
  const costs = new Float64Array(LONGEST_WORD + 1);
  for (let length = 1; length <= LONGEST_WORD; length += 1) {
    costs[length] = byLength[length] ?? (costs[length - 1] as number) + perFurther;
  }
  costs[0] = first;
  return costs;
}

/**
 * Pairs of letters, one row of bits per first letter. RARE pairs hardly occur in any European language or in code: keys, hashes and base64 are full of
 * them and cost about one token more for each, so they need no detection of their own. ODD pairs are three times as frequent in other languages as
 * in English and code: with the accents they tell how foreign a Latin text is.
 */
// oxfmt-ignore
const RARE = [
  0x0000010, 0x2e1a4e2, 0x1e1b06a, 0x2e136e4, 0x0000000, 0x2e516cc, 0x3e1862e, 0x3e5beee, 0x1410180, 0x3ebbeee, 0x2e1962e, 0x2c30000, 0x2eb24a4,
  0x2c31202, 0x3810280, 0x2e1222a, 0x3eff7ff, 0x0800280, 0x0a02262, 0x2a10622, 0x3f14280, 0x3ffbeee, 0x3b99e6e, 0x1f77eea, 0x3f10eea, 0x0ef9eee,
];
// oxfmt-ignore
const ODD = [
  0x2214681, 0x0022100, 0x2000300, 0x000a000, 0x2100700, 0x0008002, 0x1000040, 0x1000800, 0x0100680, 0x0100111, 0x01a4901, 0x00036c0, 0x0000000,
  0x2000300, 0x2000200, 0x0000004, 0x0000000, 0x2010008, 0x2000400, 0x0000400, 0x2000601, 0x1122000, 0x1000000, 0x0000000, 0x0400001, 0x1587111,
];
const RARE_PAIR_COST = 0.9;
/** Share of odd pairs per letter that English and code have too. */
const USUAL_ODD = 0.02;

// Both in one table, 32 entries a row, so that a letter costs one look-up: rare pairs count in the low half, odd ones in the high half.
const NO_LETTER = 26;
const ONE_ODD = 0x10000;
const PAIRS = new Int32Array((NO_LETTER + 1) * 32);
for (let first = 0; first < NO_LETTER; first += 1) {
  for (let second = 0; second < NO_LETTER; second += 1) {
    const isRare = ((RARE[first] as number) >> second) & 1;
    const isOdd = ((ODD[first] as number) >> second) & 1;
    PAIRS[first * 32 + second] = isRare + isOdd * ONE_ODD;
  }
}

/**
 * The default tokenizer: about o200k_base, by our samples 10 % under to 25 % over for natural text, code and data. Text crafted against it (random
 * letters of a rare script) can be counted up to four times too low: the rest is charged when the provider's usage arrives. About 4 ns a character,
 * no allocation.
 */
export function fastTokenizer(text: string): number {
  const end = text.length;
  let total = 0;
  let letters = 0;
  let accents = 0;
  let odd = 0;
  let foreign = 0;
  // A word or punctuation run swallows one space before it.
  let spaced = false;
  let i = 0;
  while (i < end) {
    let kind = CLASS[text.charCodeAt(i)] as number;
    const start = i;

    if (kind <= ACCENTED && kind >= LOWER) {
      // One piece: capitals, then small letters. A capital after a small letter starts the next piece (camelCase).
      let pairs = 0;
      let before = NO_LETTER;
      let code = text.charCodeAt(i);
      let letter = code - 0x41;
      while (letter >= 0 && letter < 26) {
        pairs += PAIRS[before * 32 + letter] as number;
        before = letter;
        i += 1;
        code = i < end ? text.charCodeAt(i) : 0;
        letter = code - 0x41;
      }
      const capitals = i - start;
      for (;;) {
        letter = code - 0x61;
        while (letter >= 0 && letter < 26) {
          pairs += PAIRS[before * 32 + letter] as number;
          before = letter;
          i += 1;
          code = i < end ? text.charCodeAt(i) : 0;
          letter = code - 0x61;
        }
        if (code < 0xc0 || CLASS[code] !== ACCENTED) break;
        accents += 1;
        before = NO_LETTER;
        i += 1;
        code = i < end ? text.charCodeAt(i) : 0;
      }
      const length = i - start;
      letters += length;
      const known = length < LONGEST_WORD ? length : LONGEST_WORD;
      total += ((spaced ? SPACED : UNSPACED)[known] as number) + RARE_PAIR_COST * (pairs & 0xffff);
      odd += pairs >> 16;
      foreign += FOREIGN[known] as number;
      if (capitals > 2) total += 0.1 * (capitals - 2);
      if (length > known) total += 0.3 * (length - known);
      spaced = false;
    } else if (kind === SPACE || kind === TAB) {
      do {
        i += 1;
        kind = i < end ? (CLASS[text.charCodeAt(i)] as number) : OTHER;
      } while (kind === SPACE || kind === TAB);
      let spaces = i - start;
      const perFurther = text.charCodeAt(start) === 0x09 ? 1 / 14 : 1 / 60;
      if (kind >= PUNCTUATION) {
        spaced = true;
        spaces -= 1;
      } else if (kind === NEWLINE) {
        spaces = 0;
      } else if (kind === DIGIT && spaces > 1) {
        total += 1;
      }
      if (spaces > 0) total += 1 + (spaces - 1) * perFurther;
    } else if (kind === NEWLINE) {
      do i += 1;
      while (i < end && CLASS[text.charCodeAt(i)] === NEWLINE);
      total += 1 + (i - start - 1) / 12;
    } else if (kind === DIGIT) {
      do i += 1;
      while (i < end && CLASS[text.charCodeAt(i)] === DIGIT);
      total += Math.ceil((i - start) / 3);
      spaced = false;
    } else if (kind === PUNCTUATION) {
      let changes = 0;
      let last = text.charCodeAt(i);
      for (i += 1; i < end; i += 1) {
        const code = text.charCodeAt(i);
        if (CLASS[code] !== PUNCTUATION) break;
        if (code !== last) changes += 1;
        last = code;
      }
      const length = i - start;
      const next = i < end ? (CLASS[text.charCodeAt(i)] as number) : OTHER;
      if (length === 1 && next >= LOWER && next <= ACCENTED && !spaced) {
        // A single mark and the word after it are one piece: `.length`, `_id`, and the `'s` of a contraction.
        total += last === 0x5c ? 0.8 : 0.3;
      } else {
        total += 1 + (changes > 2 ? 0.65 * (changes - 2) : 0) + (length - 1 - changes) / 40;
        // The run takes the line's end with it.
        while (i < end && CLASS[text.charCodeAt(i)] === NEWLINE) i += 1;
      }
      spaced = false;
    } else if (kind === SYMBOL) {
      const code = text.charCodeAt(i);
      do i += 1;
      while (i < end && text.charCodeAt(i) === code);
      total += (code < 0x2100 || code >= 0x3000 ? 1 : 1.6) + (i - start - 1) / 4;
      spaced = false;
    } else if (kind === PAIR) {
      const code = text.charCodeAt(i);
      i += i + 1 < end && code < 0xdc00 ? 2 : 1;
      total += code >= 0xd83c && code <= 0xd83e ? 2 : 4;
      spaced = false;
    } else if (kind >= CYRILLIC) {
      let cost = RUN_BASE[kind] as number;
      do {
        cost += RUN_PER_CHAR[kind] as number;
        i += 1;
        kind = i < end ? (CLASS[text.charCodeAt(i)] as number) : OTHER;
      } while (kind >= CYRILLIC);
      total += cost < 1 ? 1 : cost;
      spaced = false;
    } else {
      i += 1;
      total += 1;
      spaced = false;
    }
  }
  const excess = odd - USUAL_ODD * letters;
  if (accents > 0 || excess > 0) {
    const strangeness = (16 * accents + 10 * Math.max(0, excess)) / letters;
    total += foreign * Math.min(1.2, strangeness) + 0.1 * accents;
  }
  return total === 0 ? 0 : Math.max(1, Math.round(total));
}

/** The one function of `gpt-tokenizer` that is used. */
interface Vocabulary {
  countTokens(text: string, options: { readonly disallowedSpecial: Set<string> }): number;
}

/**
 * Exact counts for OpenAI's current models (o200k_base), near ones for everybody else's. Loads the optional peer `gpt-tokenizer` (about 200 ms and
 * 66 MB, once). Throws {@link ConfigError} when it is not installed.
 */
export async function exactTokenizer(load: () => Promise<Vocabulary> = () => import("gpt-tokenizer/encoding/o200k_base")): Promise<Tokenizer> {
  let vocabulary: Vocabulary;
  try {
    vocabulary = await load();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError([
      `estimate.tokenizer: "exact" needs the package gpt-tokenizer: run "npm install gpt-tokenizer", or set it to "fast" (${reason})`,
    ]);
  }
  // A client may write "<|endoftext|>": that is text, not a reason to throw.
  const options = { disallowedSpecial: new Set<string>() };
  return function countExactly(text) {
    let tokens = 0;
    let from = 0;
    for (let cut = longRun(text, 0); cut !== -1; cut = longRun(text, cut)) {
      tokens += vocabulary.countTokens(text.slice(from, cut), options);
      from = cut;
    }
    return tokens + vocabulary.countTokens(from === 0 ? text : text.slice(from), options);
  };
}

const LONGEST_RUN = 64;

/**
 * Where to cut an unbroken run of letters, marks or white space that is too long; -1 = nowhere from here on. Merging takes time in the square of a
 * run: 40,000 Chinese characters without a comma would stop the process for seconds. A cut costs at most a token more.
 */
function longRun(text: string, from: number): number {
  let previous = -1;
  let length = 0;
  for (let i = from; i < text.length; i += 1) {
    const kind = CLASS[text.charCodeAt(i)] as number;
    // Digits are never merged beyond three, they only end a run.
    const group = kind === DIGIT ? -1 : kind >= LOWER ? 2 : kind >= PUNCTUATION || kind === OTHER ? 1 : 0;
    if (group !== previous || group === -1) {
      previous = group;
      length = 1;
    } else if (length < LONGEST_RUN) {
      length += 1;
    } else if (kind !== PAIR || (text.charCodeAt(i) & 0xfc00) !== 0xdc00) {
      return i;
    }
  }
  return -1;
}
