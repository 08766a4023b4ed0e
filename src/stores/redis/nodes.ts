import type { Clock, Timer } from "../../core/time.ts";
import type { RedisLink } from "./link.ts";
import { redisScript } from "./lua/script.ts";

const BEAT_EVERY_MS = 5000;
/** Who has not beaten for so long is gone. */
const GONE_AFTER_MS = 15_000;
/** The server forgets the list of nodes when all are gone. */
const FORGET_AFTER_MS = 60_000;

/**
 * KEYS: n, v, b. ARGV: id, now or nothing, how long a node is counted, how long the list is kept. Returns how many there are, the last version of a
 * record, and how many beats there were.
 */
const beatScript = redisScript(
  "beat",
  `
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { redis.call('ZCARD', KEYS[1]), redis.call('GET', KEYS[2]) or '0', redis.call('INCR', KEYS[3]) }
`,
);

export interface Nodes {
  /** How many processes there were at the last beat, this one included. At least 1. */
  count(): number;
  /** The first beat, and from then on one every five seconds. Rejects when the server is away. */
  start(): Promise<void>;
  /** One out of turn: a server that is back may have forgotten all. */
  beat(): void;
  /** Takes this process off the list. Never rejects. */
  leave(): Promise<void>;
}

/** Counts the processes that share the store. A server that was emptied knows them all again with their next beat. */
export function nodes(link: RedisLink, id: string, clock: Clock, onBeat: (recordVersion: number, beats: number) => void): Nodes {
  const key = `${link.prefix}n`;
  let known = 1;
  let timer: Timer | undefined;

  async function beat(): Promise<void> {
    const now = link.testTime === undefined ? "" : link.testTime();
    const reply = await link.run(beatScript, [key, `${link.prefix}v`, `${link.prefix}b`], [id, now, GONE_AFTER_MS, FORGET_AFTER_MS], true);
    const [count, version, beats] = reply as readonly [number, Buffer, number];
    known = Math.max(1, count);
    onBeat(Number(version), beats);
  }

  /** The connection logs what keeps a beat from the server. */
  function tryBeat(): void {
    beat().catch(() => {});
  }

  return {
    count: () => known,
    async start() {
      await beat();
      timer ??= clock.timer(BEAT_EVERY_MS, () => {
        timer?.refresh();
        tryBeat();
      });
    },
    beat: tryBeat,
    async leave() {
      timer?.cancel();
      timer = undefined;
      await link.call("ZREM", key, id).catch(() => {});
    },
  };
}
