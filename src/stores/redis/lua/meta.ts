import { redisScript } from "./script.ts";

/*
 * The key `<prefix>m` says which history the counters have and which numbers of limits are in force: `<epoch>:<version>:<w|c>`, w = whole, c = closed
 * (lost and not yet rebuilt). It is made by the first process that begins, and it is the only key whose absence means that something was lost.
 */

export interface Meta {
  /** Names the history of the counters. */
  readonly epoch: string;
  /** Grows with each change of the numbers of limits. */
  readonly version: number;
  /** False while lost counters are being rebuilt. */
  readonly isWhole: boolean;
}

const FORM = /^([A-Za-z0-9-]+):(\d{1,15}):([wc])$/;

/** Undefined for anything else than {@link metaText} writes. */
export function parseMeta(text: string): Meta | undefined {
  const [, epoch, version, mark] = FORM.exec(text) ?? [];
  return epoch === undefined ? undefined : { epoch, version: Number(version), isWhole: mark === "w" };
}

export const metaText = ({ epoch, version, isWhole }: Meta): string => `${epoch}:${version}:${isWhole ? "w" : "c"}`;

/** `readMeta(text)`: epoch, version (a number) and mark, or nil for what nobody here has written. */
export const READ_META = `
local function readMeta(text)
  local epoch, version, mark = string.match(text, '^([%w-]+):(%d+):([wc])$')
  return epoch, tonumber(version), mark
end
`;

/**
 * `bumpVersion(key)`: another version for new numbers of limits, to be called before the script's first write, because it throws for what is not a
 * meta. A missing key stays missing: without it each process starts anew and reads all numbers.
 */
export const BUMP_VERSION = `${READ_META}
local function bumpVersion(key)
  local text = redis.call('GET', key)
  if not text then return end
  local epoch, version, mark = readMeta(text)
  if not epoch then error('the key ' .. key .. ' holds something else than an epoch and a version') end
  redis.call('SET', key, epoch .. ':' .. string.format('%.0f', version + 1) .. ':' .. mark)
end
`;

/**
 * KEYS: m. ARGV: the epoch to begin with where there is none, and its mark. Returns the text that stands there. Of two processes that begin at once
 * the first one's epoch is both's.
 */
export const beginScript = redisScript(
  "begin",
  `
local text = redis.call('GET', KEYS[1])
if text then return text end
text = ARGV[1] .. ':0:' .. ARGV[2]
redis.call('SET', KEYS[1], text)
return text
`,
);

/**
 * KEYS: m, lock. ARGV: epoch, token of the lock. Whoever has the right to rebuild marks the counters of that epoch as whole and gives the lock back. Returns the
 * text that stands there, or nil.
 */
export const completeScript = redisScript(
  "complete",
  `${READ_META}
local text = redis.call('GET', KEYS[1])
local mine = redis.call('GET', KEYS[2]) == ARGV[2]
if text then
  local epoch, version, mark = readMeta(text)
  if mine and epoch == ARGV[1] and mark == 'c' then
    text = epoch .. ':' .. string.format('%.0f', version) .. ':w'
    redis.call('SET', KEYS[1], text)
  end
end
if mine then redis.call('DEL', KEYS[2]) end
return text
`,
);

/** KEYS: lock. ARGV: token, ms. Takes or prolongs the right to rebuild. Returns 1, or 0 when another process has it. */
export const claimScript = redisScript(
  "claim",
  `
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`,
);
