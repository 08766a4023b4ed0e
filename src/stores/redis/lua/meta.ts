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

/**
 * KEYS: m. ARGV: epoch, another one. Closes the counters of that epoch under the other one. Returns the text that stands there, or nil. Of two
 * processes that do it at once the first one's epoch is both's.
 */
export const disownScript = redisScript(
  "disown",
  `${READ_META}
local text = redis.call('GET', KEYS[1])
if not text then return text end
local epoch, version = readMeta(text)
if epoch ~= ARGV[1] then return text end
text = ARGV[2] .. ':' .. string.format('%.0f', version) .. ':c'
redis.call('SET', KEYS[1], text)
return text
`,
);

/** Of beats, so that other processes do not take the mended count for another step back. */
const AHEAD = 100_000;

/** Open holds that are forgotten at once: some ten milliseconds of the server's time. */
const MOST_FORGOTTEN = 50_000;

/**
 * KEYS: m, b, x. ARGV: the count of beats that the server must have passed, the last one that it told, another epoch, what the keys of holds begin with.
 * Closes the counters of a server that has gone back, under the other epoch, and mends the count. Returns the text that stands there, or nil. Only the
 * first process closes them. Holds are forgotten, as on a server that is empty: the counters will be rebuilt from rows that say what became of them, so
 * none may give anything back after that. Their keys are not declared, but in the same slot.
 */
export const rolledBackScript = redisScript(
  "rolled-back",
  `${READ_META}
local text = redis.call('GET', KEYS[1])
if not text then return text end
local epoch, version = readMeta(text)
if not epoch or tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[1]) then return text end
text = ARGV[3] .. ':' .. string.format('%.0f', version) .. ':c'
for _, opId in ipairs(redis.call('ZRANGE', KEYS[3], 0, ${MOST_FORGOTTEN - 1})) do redis.call('UNLINK', ARGV[4] .. opId) end
redis.call('DEL', KEYS[3])
redis.call('SET', KEYS[2], string.format('%.0f', ARGV[2] + ${AHEAD}))
redis.call('SET', KEYS[1], text)
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
