import { LATE_MS, SPARE_MS } from "../../../limits/backend.ts";
import { redisScript } from "./script.ts";

/** KEYS: x. ARGV: the time or -1 for the server's, how many. Returns the opIds that are due, and forgets what nobody can correct any more. */
export const dueScript = redisScript(
  "due",
  `
local now = tonumber(ARGV[1])
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ${LATE_MS + SPARE_MS})
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now - ${LATE_MS}), now, 'LIMIT', 0, ARGV[2])
`,
);
